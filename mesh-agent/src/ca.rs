//! Certificates of the node's workloads.
