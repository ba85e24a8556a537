//! `kms-notifier`: follows a KMS server's log and tells what happened.
//!
//! The way through the house is one: [`source`] → [`line`](mod@line) → [`assembler`] →
//! [`policy`] → [`sink`]. [`reader`] joins the first three for one log,
//! [`follow`] is the thread that drives it, [`hub`] joins the last two for all
//! logs, and [`run`] wires everything up. `docs/architecture.md` draws it.
//!
//! [`diag`] is another program: `kms-diag` collects what client scripts saw.

pub mod assembler;
pub mod config;
pub mod dedup_store;
pub mod diag;
pub mod event;
pub mod explain;
pub mod follow;
pub mod hub;
pub mod line;
pub mod own_log;
pub mod policy;
pub mod reader;
pub mod replay;
pub mod run;
pub mod saved;
pub mod sink;
pub mod source;
