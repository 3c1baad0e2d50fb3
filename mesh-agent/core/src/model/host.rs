//! Host names: canonical form, and what a Host header may mean to a client.
