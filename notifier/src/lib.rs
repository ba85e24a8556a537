//! `kms-notifier`: follows a KMS server's log and tells what happened.

pub mod config;
pub mod event;
pub mod sink;
pub mod source;
