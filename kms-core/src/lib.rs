//! The KMS protocol's vocabulary, without an async runtime: what products are
//! called ([`catalog`]), what a client says of its own licence ([`license`]),
//! what a host answers when it refuses ([`hresult`]), and how to show text that
//! a client wrote ([`text`]).
//!
//! Nothing here reads a clock, a file or a socket, and nothing is set up at run
//! time: the tables are constants.

pub mod catalog;
pub mod cipher;
pub mod cursor;
pub mod hresult;
pub mod lab;
pub mod license;
pub mod limits;
pub mod message;
pub mod pdu;
pub mod responder;
pub mod stub;
pub mod text;
pub mod vlmcsd_log;
