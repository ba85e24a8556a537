//! The KMS protocol: without an async runtime, and on one.
//!
//! The vocabulary: what products are called ([`catalog`]), what a client says of
//! its own licence ([`license`]), what a host answers when it refuses
//! ([`hresult`]), and how to show text that a client wrote ([`text`]).
//!
//! The wire, each layer on the one before: bounds-checked bytes ([`cursor`]),
//! DCE/RPC packets ([`pdu`]), arguments and results ([`stub`]), KMS messages and
//! their envelopes ([`message`], sealed by a [`cipher`] suite, of which there is
//! the [`lab`]'s), and what a host does with them ([`responder`]).
//!
//! The other side: a [`client`] that binds and calls, which works with any host,
//! given an [`endpoint`].
//!
//! Around it: who may connect how often ([`limits`]), and a log that reads like
//! vlmcsd's ([`vlmcsd_log`]).
//!
//! Nothing of this reads a clock, a file or a socket, and nothing is set up at run
//! time: time and random bytes are passed in, the tables are constants.
//!
//! The edges, on tokio: connections accepted, limited, logged and answered (the
//! room `server`, behind the feature of that name) or passed on to a licensed host
//! (`relay`), a client over a stream and a `doctor` for endpoints (the same
//! feature), and a small HTTP server for metrics (`http`) with the texts it sends
//! ([`exposition`]).

pub mod catalog;
pub mod cipher;
pub mod client;
pub mod cursor;
#[cfg(feature = "server")]
pub mod doctor;
pub mod endpoint;
#[cfg(feature = "http")]
pub mod exposition;
pub mod hresult;
#[cfg(feature = "http")]
pub mod http;
pub mod lab;
pub mod license;
pub mod limits;
pub mod message;
pub mod pdu;
pub mod relay;
pub mod responder;
#[cfg(feature = "server")]
pub mod server;
pub mod stub;
pub mod text;
pub mod vlmcsd_log;
