//! Edges that tell others.

pub mod slack;
