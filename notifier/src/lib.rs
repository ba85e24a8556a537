//! `kms-notifier`: follows a KMS server's log and tells what happened.

pub mod event;
pub mod policy;
pub mod sink;
pub mod source;
