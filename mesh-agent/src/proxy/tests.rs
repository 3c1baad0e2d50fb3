//! Tests of the proxy as a whole, in one process, on loopback: what a pod's application dialled is a constant, and
//! the endpoints are servers of the test.

mod bytes;
mod connections;
mod cross;
mod http1;
mod http2;
mod mesh;
mod promises;
mod rules;
mod smuggling;
