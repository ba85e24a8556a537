//! Edges that tell what happened.

pub mod http;
pub mod metrics;
pub mod page;
pub mod slack;
pub mod state;
pub mod stdout;
pub(crate) mod text;
