//! Slack, through an incoming webhook: [`render()`] says what a message looks
//! like and is pure; [`Poster`] posts it and says how that ended.

mod payload;
mod poster;
mod render;
mod resolver;
mod roots;
mod webhook;

pub use self::payload::Payload;
pub use self::poster::{BuildError, Posted, Poster};
pub use self::render::{Icon, IconError, Style, render, render_test};
pub use self::roots::{Roots, RootsError};
pub use self::webhook::{Webhook, WebhookError};
