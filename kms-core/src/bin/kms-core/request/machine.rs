//! The machine that asks: which product, and what it says of itself.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kms_core::catalog::{self, Product, Protocol};
use kms_core::message::{BaseRequest, FileTime, Version, WorkstationName};
use uuid::Uuid;

use crate::Failure;

/// How many names are shown where none, or more than one, was meant.
const SUGGESTIONS: usize = 8;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The machine that asks")]
#[group(skip)]
pub(super) struct Args {
    /// Name in the catalogue, or activation id
    #[arg(
        long,
        value_name = "NAME|ID",
        default_value = "Windows 10/11 Enterprise"
    )]
    product: String,

    /// KMS protocol: 4, 5 or 6; the product's newest if not given
    #[arg(long, value_name = "N", value_parser = super::protocol)]
    protocol: Option<Protocol>,

    /// Workstation name, up to 63 UTF-16 units
    #[arg(long, value_name = "NAME", default_value = "kms-core-lab")]
    workstation: WorkstationName,

    /// Client machine id; random if not given
    #[arg(long, value_name = "UUID")]
    client_machine_id: Option<Uuid>,

    /// The machine's id before
    #[arg(long, value_name = "UUID")]
    previous_client_machine_id: Option<Uuid>,

    /// Licensing status before the request; 0 to 6 are known, 2 is out-of-box grace
    #[arg(long, value_name = "N", default_value_t = 2)]
    status: u32,

    /// Minutes until that status ends
    #[arg(long, value_name = "MINUTES", default_value_t = 43_200)]
    remaining_minutes: u32,

    /// How many clients the host must know; the product's if not given
    #[arg(long, value_name = "N")]
    min_clients: Option<u32>,

    /// The machine is virtual
    #[arg(long)]
    virtual_machine: bool,

    /// The machine's clock, as 2026-03-14T09:26:53Z; now if not given
    #[arg(long, value_name = "TIME")]
    client_time: Option<Timestamp>,

    /// Application id; the product's if not given
    #[arg(long, value_name = "UUID")]
    application_id: Option<Uuid>,

    /// KMS-counted id; the product's if not given
    #[arg(long, value_name = "UUID")]
    kms_counted_id: Option<Uuid>,
}

impl Args {
    pub(super) fn request(
        &self,
        now: Timestamp,
        rng: &mut fastrand::Rng,
    ) -> Result<BaseRequest, Failure> {
        let found = self.find()?;
        let known = |of: fn(&Product) -> Uuid| found.as_ref().ok().copied().map(of);
        let missing = |option: &str| {
            Failure::usage(format_args!(
                "the catalogue has no product {}; name one that it has, or give {option} too",
                self.product
            ))
        };
        let protocol = match (self.protocol, &found) {
            (Some(protocol), _) => protocol,
            (None, Ok(product)) => product.protocol,
            (None, Err(_)) => Protocol::V6,
        };
        Ok(BaseRequest {
            version: Version::from(protocol),
            virtual_machine: u32::from(self.virtual_machine),
            license_status: self.status,
            remaining_minutes: self.remaining_minutes,
            application_id: self
                .application_id
                .or(known(|product| product.application_id))
                .ok_or_else(|| missing("--application-id"))?,
            activation_id: match found {
                Ok(product) => product.activation_id,
                Err(id) => id,
            },
            kms_counted_id: self
                .kms_counted_id
                .or(known(|product| product.kms_counted_id))
                .ok_or_else(|| missing("--kms-counted-id"))?,
            client_machine_id: self.client_machine_id.unwrap_or_else(|| random_id(rng)),
            min_clients: self
                .min_clients
                .unwrap_or_else(|| found.map_or(0, |product| product.min_clients)),
            client_time: FileTime::from(self.client_time.unwrap_or(now)),
            previous_client_machine_id: self.previous_client_machine_id.unwrap_or_default(),
            workstation: self.workstation,
        })
    }

    /// The product, or an id that the catalogue does not know.
    fn find(&self) -> Result<Result<&'static Product, Uuid>, Failure> {
        if let Ok(id) = self.product.parse() {
            return Ok(catalog::product(id).ok_or(id));
        }
        let named: Vec<&Product> = catalog::products()
            .iter()
            .filter(|product| {
                let mut names = product.names();
                names.any(|name| name.eq_ignore_ascii_case(&self.product))
            })
            .collect();
        match named.as_slice() {
            [product] => Ok(Ok(product)),
            [] => Err(Failure::usage(format_args!(
                "--product: the catalogue has no {:?}{}",
                self.product,
                similar(&self.product)
            ))),
            several => {
                let ids = several.iter().take(SUGGESTIONS);
                let ids: Vec<String> = ids.map(|one| one.activation_id.to_string()).collect();
                Err(Failure::usage(format_args!(
                    "--product: {} products are called {:?}; give the id, one of {}",
                    several.len(),
                    self.product,
                    ids.join(", ")
                )))
            }
        }
    }
}

/// `; it has A, B` of products whose name holds all the words.
fn similar(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    let names: BTreeSet<&str> = catalog::products()
        .iter()
        .map(|product| product.name)
        .filter(|name| {
            let name = name.to_ascii_lowercase();
            words.iter().all(|word| name.contains(word))
        })
        .collect();
    if names.is_empty() || words.is_empty() {
        return String::new();
    }
    let shown: Vec<&str> = names.iter().copied().take(SUGGESTIONS).collect();
    let more = match names.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more like it"),
    };
    format!("; it has {}{more}", shown.join(", "))
}

fn random_id(rng: &mut fastrand::Rng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn request(args: &[&str]) -> Result<BaseRequest, String> {
        let cli = Cli::try_parse_from([&["test"], args].concat()).map_err(|e| e.to_string())?;
        let now = Timestamp::UNIX_EPOCH;
        let request = cli.args.request(now, &mut fastrand::Rng::with_seed(1));
        request.map_err(|failure| failure.message)
    }

    #[test]
    fn a_product_brings_its_ids_protocol_and_clients() {
        let asked = request(&[]).unwrap();
        let product = catalog::product(asked.activation_id).unwrap();
        assert_eq!(product.name, "Windows 10/11 Enterprise");
        assert_eq!(asked.kms_counted_id, product.kms_counted_id);
        assert_eq!(asked.version, Version::from(Protocol::V6));
        assert_eq!(asked.min_clients, 25);
        let id = product.activation_id.to_string();
        assert_eq!(request(&["--product", &id]), request(&[]));
        assert_eq!(
            request(&["--product", "windows 10 ENTERPRISE"]),
            request(&[])
        );
    }

    #[test]
    fn what_is_said_beats_the_product() {
        let asked = request(&["--protocol=4", "--min-clients=7", "--status=5"]).unwrap();
        assert_eq!(asked.version, Version::from(Protocol::V4));
        assert_eq!((asked.min_clients, asked.license_status), (7, 5));
    }

    #[test]
    fn unknown_products_need_their_ids_said() {
        let id = Uuid::from_u128(7);
        let error = request(&["--product", &id.to_string()]).unwrap_err();
        assert!(error.contains("--application-id"), "{error}");
        let id = id.to_string();
        let all = [
            "--product",
            &id,
            "--application-id",
            &id,
            "--kms-counted-id",
            &id,
        ];
        assert_eq!(request(&all).unwrap().activation_id, Uuid::from_u128(7));
    }

    #[test]
    fn a_name_that_is_not_there_is_answered_with_those_like_it() {
        let error = request(&["--product", "office 2010 standard"]).unwrap_err();
        assert!(error.contains(", Office Standard 2010, "), "{error}");
        let error = request(&["--product", "teapot"]).unwrap_err();
        assert_eq!(error, "--product: the catalogue has no \"teapot\"");
    }
}
