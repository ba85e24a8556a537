//! The server: a lab KMS host on real sockets.
//!
//! A [`Front`] takes connections from any number of listeners, asks the limits
//! about them and hands them to a [`Service`]: here the [`Responder`], which
//! answers as the lab host does. Both write to one [`Log`] and count in one
//! [`Metrics`]; [`admin`] shows the counters and the overload table over HTTP.
//!
//! ```
//! use kms_core::lab::LabSuite;
//! use kms_core::responder::{Host, Policy};
//! use kms_core::server::{
//!     Front, FrontSettings, Log, Metrics, Responder, ResponderSettings, fill_random,
//! };
//! use tokio::net::{TcpListener, TcpStream};
//! use tokio::sync::oneshot;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (log, metrics) = (Log::nowhere(), Metrics::default());
//! let host = Host::new(Policy::default(), Box::new(LabSuite), &mut fill_random);
//! let settings = ResponderSettings::default();
//! let responder = Responder::new(host, settings, log.clone(), metrics.clone());
//!
//! let front = Front::new(FrontSettings::default(), log, metrics)?;
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let (stop, stopped) = oneshot::channel::<()>();
//! let server = tokio::spawn(async move {
//!     let stopped = async { stopped.await.unwrap_or_default() };
//!     front.run(vec![listener], responder, stopped).await;
//! });
//!
//! let client = TcpStream::connect(address).await?;
//! drop(client);
//! drop(stop);
//! server.await?;
//! # Ok(())
//! # }
//! ```

pub mod admin;
mod gate;
mod listen;
mod log;
mod metrics;
mod proxy;
mod random;
mod respond;
mod service;

pub use listen::{Front, FrontSettings};
pub use log::{HOLD_BACK, Log, LogSettings, MAX_WAITING, Target};
pub use metrics::{Metrics, Snapshot};
pub use proxy::{MAX_PROXY_HEADER, NoProxyHeader, ProxyOutcome, proxy_header};
pub use respond::{MAX_PATIENCE, Responder, ResponderSettings, fill_random};
pub use service::{Connection, End, Service, Stop};
