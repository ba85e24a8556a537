//! Edges that tell what happened.

pub mod http;
pub mod metrics;
pub mod slack;
pub mod stdout;
