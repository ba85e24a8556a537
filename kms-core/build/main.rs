//! Writes the product catalogue as sorted static arrays, so that a lookup costs
//! a binary search and the program's start costs nothing.

mod tables;

use std::error::Error;
use std::path::Path;
use std::{env, fs};

// A build script talks to cargo over stdout.
#[expect(
    clippy::print_stdout,
    reason = "cargo reads its instructions from here"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let data = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("data");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=data");
    let products = fs::read_to_string(data.join("products.tsv"))?;
    let groups = fs::read_to_string(data.join("groups.tsv"))?;
    let source = tables::generate(&products, &groups)?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("catalog.rs"), source)?;
    Ok(())
}
