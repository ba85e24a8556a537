//! Requests one after the other, each shown.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use kms_core::catalog;
use kms_core::client::{Bound, CallError, ClientError, Connection, connect};
use kms_core::hresult::HResult;
use kms_core::lab::LabSuite;
use kms_core::message::envelope::{self, OpenResponse};
use kms_core::message::{BaseRequest, MAX_EPID_UNITS, MessageError};
use kms_core::stub::{Encoding, Reply};
use kms_core::text;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Args, code, encoding_name, no_connection};
use crate::Failure;
use crate::output::{millis, print, print_json};

/// What `--json` prints for each request.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    v: u8,
    host: &'a str,
    address: String,
    request: u64,
    protocol: String,
    encoding: &'static str,
    activation_id: String,
    product: Option<&'static str>,
    client_machine_id: String,
    outcome: &'static str,
    milliseconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hresult: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hardware_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_clients: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activation_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renewal_interval: Option<u32>,
}

/// How one request ended.
enum Outcome {
    Answered(OpenResponse),
    Refused(HResult),
    /// There is an answer, and the lab suite did not seal it.
    Foreign(MessageError),
    Failed(CallError),
}

pub(super) async fn run(
    args: &Args,
    addresses: &[SocketAddr],
    request: BaseRequest,
) -> Result<ExitCode, Failure> {
    let mut session = Session::open(args, addresses).await?;
    let mut worst = 0;
    let mut rng = fastrand::Rng::new();
    for number in 1..=args.requests.unwrap_or(1) {
        let mut iv = [0; 16];
        rng.fill(&mut iv);
        let mut message = Vec::new();
        envelope::seal_request(&LabSuite, &request, &iv, &mut message).map_err(Failure::usage)?;
        let began = Instant::now();
        let outcome = session.ask(&message).await;
        let took = began.elapsed();
        if args.json {
            let host = args.host.to_string();
            print_json(&session.line(&host, number, &request, &outcome, took))?;
        } else {
            print(&session.text(number, &request, &outcome, took))?;
        }
        worst = worst.max(outcome.code());
        if let Outcome::Failed(error) = &outcome
            && !matches!(error, CallError::Protocol(ClientError::Fault(_)))
        {
            break;
        }
    }
    Ok(ExitCode::from(worst))
}

/// A connection that is bound.
struct Session {
    address: SocketAddr,
    connection: Connection<TcpStream>,
    encoding: Encoding,
}

impl Session {
    /// Over the first address that takes the connection.
    async fn open(args: &Args, addresses: &[SocketAddr]) -> Result<Self, Failure> {
        let from = args.from.first().copied();
        let mut failed = None;
        for address in addresses {
            let began = Instant::now();
            match connect(*address, from, args.timeout).await {
                Ok(stream) => return Self::bind(args, *address, stream, began.elapsed()).await,
                Err(error) => failed = Some(format!("{address}: {error}")),
            }
        }
        let why = failed.unwrap_or_default();
        Err(no_connection(&args.host, &why))
    }

    async fn bind(
        args: &Args,
        address: SocketAddr,
        stream: TcpStream,
        connected: Duration,
    ) -> Result<Self, Failure> {
        let mut connection = Connection::new(stream, args.timeout);
        let began = Instant::now();
        let bound = match connection.bind(args.offer()).await {
            Ok(bound) => bound,
            Err(error) => {
                return Err(Failure {
                    code: code_of(&error),
                    message: format!(
                        "{address}: {error}; `kms-core doctor {}` looks closer",
                        args.host
                    ),
                });
            }
        };
        if !args.json {
            let text = opened(args, address, bound, connected, began.elapsed());
            print(&text)?;
        }
        let encoding = args.encoding.encoding();
        let encoding = encoding.or_else(|| connection.association().preferred());
        Ok(Self {
            address,
            connection,
            // A bind that accepts neither is an error.
            encoding: encoding.unwrap_or(Encoding::Ndr32),
        })
    }

    async fn ask(&mut self, message: &[u8]) -> Outcome {
        match self.connection.call(self.encoding, message).await {
            Ok(Reply::Refused(code)) => Outcome::Refused(code),
            Ok(Reply::Data(answer)) => match envelope::open_response(&LabSuite, message, answer) {
                Ok(open) => Outcome::Answered(open),
                Err(error) => Outcome::Foreign(error),
            },
            Err(error) => Outcome::Failed(error),
        }
    }

    fn text(
        &self,
        number: u64,
        request: &BaseRequest,
        outcome: &Outcome,
        took: Duration,
    ) -> String {
        let product = catalog::product(request.activation_id);
        let product = product.map_or_else(
            || request.activation_id.to_string(),
            |product| product.name.to_owned(),
        );
        let mut text = format!(
            "request {number}: KMS {}, {product}, {} ({})\n",
            request.version,
            request.workstation.cleaned(),
            request.client_machine_id,
        );
        let took = millis(took);
        match outcome {
            Outcome::Answered(open) => {
                text.push_str(&format!("  answered in {took}\n"));
                field(&mut text, "extended PID", epid(open));
                if let Some(id) = hardware_id(open) {
                    field(&mut text, "hardware ID", id);
                }
                let response = &open.response;
                field(
                    &mut text,
                    "active clients",
                    format_args!(
                        "{} of {} wanted",
                        response.active_clients, request.min_clients
                    ),
                );
                field(
                    &mut text,
                    "activation interval",
                    format_args!("{} min", response.activation_interval),
                );
                field(
                    &mut text,
                    "renewal interval",
                    format_args!("{} min", response.renewal_interval),
                );
            }
            _ => text.push_str(&format!("  {} after {took}\n", outcome.words())),
        }
        text
    }

    fn line<'a>(
        &self,
        host: &'a str,
        number: u64,
        request: &BaseRequest,
        outcome: &Outcome,
        took: Duration,
    ) -> Line<'a> {
        let mut line = Line {
            v: 1,
            host,
            address: self.address.to_string(),
            request: number,
            protocol: request.version.to_string(),
            encoding: encoding_name(self.encoding),
            activation_id: request.activation_id.to_string(),
            product: catalog::product(request.activation_id).map(|product| product.name),
            client_machine_id: request.client_machine_id.to_string(),
            outcome: outcome.label(),
            milliseconds: took.as_secs_f64() * 1e3,
            ..Line::default()
        };
        match outcome {
            Outcome::Answered(open) => {
                line.epid = Some(epid(open));
                line.hardware_id = hardware_id(open);
                line.active_clients = Some(open.response.active_clients);
                line.activation_interval = Some(open.response.activation_interval);
                line.renewal_interval = Some(open.response.renewal_interval);
            }
            Outcome::Refused(code) => line.hresult = Some(code.to_string()),
            Outcome::Foreign(_) | Outcome::Failed(_) => {}
        }
        if line.outcome != "answered" {
            line.reason = Some(outcome.words());
        }
        line
    }
}

impl Outcome {
    fn code(&self) -> u8 {
        match self {
            Self::Answered(_) => 0,
            Self::Refused(_) => code::REFUSED,
            Self::Foreign(_) => code::NOT_LAB,
            Self::Failed(error) => code_of(error),
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::Refused(_) => "refused",
            Self::Foreign(_) => "not_lab",
            Self::Failed(_) => "failed",
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Answered(_) => "answered".to_owned(),
            Self::Refused(code @ HResult(0x8007_000D)) => format!(
                "refused {code}: the host cannot open the request; unless it is `kms-core serve`, \
                 it does not speak the lab suite"
            ),
            Self::Refused(code) => match code.known() {
                Some(known) => format!("refused {code}: {}", known.words),
                None => format!("refused {code}"),
            },
            Self::Foreign(error) => format!(
                "answered, but not in the lab suite ({error}): this is a host of another kind, \
                 and `kms-core request` talks to `kms-core serve` only"
            ),
            Self::Failed(error) => error.to_string(),
        }
    }
}

fn code_of(error: &CallError) -> u8 {
    match error {
        CallError::Protocol(_) => code::NOT_KMS,
        CallError::Io { .. } | CallError::Timeout { .. } | CallError::Closed { .. } => {
            code::NO_CONNECTION
        }
    }
}

fn opened(
    args: &Args,
    address: SocketAddr,
    bound: Bound,
    connected: Duration,
    binding: Duration,
) -> String {
    let syntax = match (bound.ndr32, bound.ndr64) {
        (_, true) => "NDR64",
        _ => "NDR32",
    };
    let features = match bound.features {
        Some(features) => format!("bind time features 0x{features:04X}"),
        None => "no bind time features".to_owned(),
    };
    format!(
        "{} at {address}: connected in {}, bound in {} ({syntax}, {features}, group 0x{:08X})\n",
        args.host,
        millis(connected),
        millis(binding),
        bound.group_id,
    )
}

fn field(text: &mut String, label: &str, value: impl std::fmt::Display) {
    writeln!(text, "  {label:<20}{value}").expect("memory takes what is written to it");
}

/// The host's words, which may be anybody's.
fn epid(open: &OpenResponse) -> String {
    let epid = open.response.epid.to_string();
    text::clean(epid.as_bytes(), MAX_EPID_UNITS).into_owned()
}

fn hardware_id(open: &OpenResponse) -> Option<String> {
    let id = open.hardware_id.map(u64::from_be_bytes)?;
    Some(format!("{id:016X}"))
}
