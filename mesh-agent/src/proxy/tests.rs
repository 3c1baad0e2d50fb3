//! Tests of the proxy as a whole, in one process.
