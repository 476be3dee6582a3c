//! HTTP without a gateway around it: the rules of the protocol, HTTP/1 on the wire, and routing. Nothing here knows a configuration, an
//! upstream or a filter.

pub mod coarse;
pub mod deadline;
pub mod http;
pub mod http1;
pub mod proxy_protocol;
pub mod route;
