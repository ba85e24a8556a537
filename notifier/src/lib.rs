//! `kms-notifier`: follows a KMS server's log and tells what happened.

pub mod assembler;
pub mod config;
pub mod event;
pub mod line;
pub mod policy;
pub mod sink;
pub mod source;
