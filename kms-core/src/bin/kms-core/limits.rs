//! `kms-core limits`: the overload table of a running server or relay.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use kms_core::server::admin::{Listing, Removed};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;
use crate::value::{address, duration};

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is taken, in bytes.
const MAX_ANSWER: usize = 4 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The admin port of the server or relay (its --admin), on this machine
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9103",
        env = "KMS_CORE_ADMIN",
        value_parser = address,
        global = true
    )]
    admin: SocketAddr,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show who is turned away, why, and for how long still
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let those in again that have been turned away for this long
    Expire {
        /// Like 10m
        #[arg(value_parser = duration)]
        age: Duration,
    },
    /// Let everybody in again
    Flush,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let text = match args.command {
        Command::List { json } => {
            let listing: Listing = ask(args.admin, Method::GET, "/limits").await?;
            if json {
                serde_json::to_string(&listing).map_err(Failure::other)? + "\n"
            } else {
                table(&listing)
            }
        }
        Command::Expire { age } => {
            let path = format!("/limits?older-than={}", whole_seconds(age));
            removed(ask(args.admin, Method::DELETE, &path).await?)
        }
        Command::Flush => removed(ask(args.admin, Method::DELETE, "/limits").await?),
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::other)?;
    Ok(ExitCode::SUCCESS)
}

/// The port takes whole seconds; 0 would let everybody in.
fn whole_seconds(age: Duration) -> u64 {
    let rest = age.subsec_nanos() > 0;
    age.as_secs().saturating_add(rest.into())
}

async fn ask<T: DeserializeOwned>(
    admin: SocketAddr,
    method: Method,
    path: &str,
) -> Result<T, Failure> {
    timeout(PATIENCE, exchange(admin, method, path))
        .await
        .unwrap_or_else(|_| Err(Failure::other(format_args!("{admin} does not answer"))))
}

async fn exchange<T: DeserializeOwned>(
    admin: SocketAddr,
    method: Method,
    path: &str,
) -> Result<T, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::other(format_args!("cannot talk to {admin}: {error}"))
    };
    let stream = TcpStream::connect(admin).await.map_err(|error| {
        Failure::other(format_args!(
            "--admin: cannot connect to {admin}: {error}; is the server started with --admin {admin}?"
        ))
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(Failure::other)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| failed(&error))?
        .to_bytes();
    connection.abort();
    if !status.is_success() {
        let why = kms_core::text::clean(body.trim_ascii(), 200);
        return Err(Failure::other(format_args!("{admin} says {status}: {why}")));
    }
    serde_json::from_slice(&body).map_err(|_| failed(&"that is no kms-core's admin port"))
}

fn removed(Removed { removed }: Removed) -> String {
    format!("{removed} let in again\n")
}

/// Cleaned, since whatever listens there wrote it.
fn table(listing: &Listing) -> String {
    if listing.total == 0 {
        return "nobody is turned away\n".to_owned();
    }
    let mut text = format!(
        "{:<43} {:<11} {:>9} {:>9} {:>5}\n",
        "SOURCE", "REASON", "SINCE", "FOR", "OPEN"
    );
    for row in &listing.overloaded {
        let clean = |text: &str| kms_core::text::clean(text.as_bytes(), 64).into_owned();
        text += &format!(
            "{:<43} {:<11} {:>8}s {:>8}s {:>5}\n",
            clean(&row.source),
            clean(&row.reason),
            row.age_seconds,
            row.left_seconds,
            row.connections
        );
    }
    let hidden = listing.total.saturating_sub(listing.overloaded.len());
    if hidden > 0 {
        text += &format!("and {hidden} more\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_is_never_none() {
        for (age, seconds) in [
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(500), 1),
            (Duration::from_secs(1), 1),
            (Duration::from_millis(1500), 2),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(whole_seconds(age), seconds, "{age:?}");
        }
    }
}
