//! To be filled in.

use std::process::ExitCode;

use crate::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let Args {} = args;
    Err(Failure::other("not built yet"))
}
