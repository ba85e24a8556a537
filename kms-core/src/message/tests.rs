use proptest::collection::vec;
use proptest::prelude::*;
use uuid::{Uuid, uuid};

use super::envelope::{open_request, open_response, request_len, seal_request, seal_response};
use super::*;
use crate::cipher::CipherSuite;
use crate::lab::LabSuite;

const PROTOCOLS: [Protocol; 3] = [Protocol::V4, Protocol::V5, Protocol::V6];
const IV: [u8; 16] = *b"sixteen bytes IV";
const HARDWARE: [u8; 8] = [0x3A, 0x1C, 0x04, 0x96, 0x00, 0xB6, 0x00, 0x76];

fn request(protocol: Protocol) -> BaseRequest {
    BaseRequest {
        version: protocol.into(),
        virtual_machine: 1,
        license_status: 2,
        remaining_minutes: 43_200,
        application_id: uuid!("55c92734-d682-4d71-983e-d6ec3f16059f"),
        activation_id: uuid!("73111121-5638-40f6-bc11-f1d7b0d64300"),
        kms_counted_id: uuid!("58e2134f-8e11-4d17-9cb2-91069c151148"),
        client_machine_id: uuid!("0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0ff"),
        min_clients: 25,
        client_time: FileTime(134_180_000_130_000_000),
        previous_client_machine_id: Uuid::nil(),
        workstation: "PC1.example.org".parse().unwrap(),
    }
}

fn response(protocol: Protocol, epid: &str) -> BaseResponse {
    BaseResponse {
        version: protocol.into(),
        epid: epid.parse().unwrap(),
        client_machine_id: uuid!("0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0ff"),
        client_time: FileTime(134_180_000_130_000_000),
        active_clients: 50,
        activation_interval: 120,
        renewal_interval: 10_080,
    }
}

fn sealed(request: &BaseRequest) -> Vec<u8> {
    let mut out = Vec::new();
    seal_request(&LabSuite, request, &IV, &mut out).unwrap();
    out
}

fn answered(request: &[u8], response: &BaseResponse) -> Vec<u8> {
    let mut out = Vec::new();
    seal_response(&LabSuite, request, response, HARDWARE, &IV, &mut out).unwrap();
    out
}

#[test]
fn a_base_request_lies_as_the_table_says() {
    let mut bytes = Vec::new();
    request(Protocol::V6).encode(&mut bytes);
    assert_eq!(bytes.len(), 236);
    assert_eq!(bytes[0..4], [0, 0, 6, 0]);
    assert_eq!(bytes[4..8], [1, 0, 0, 0]);
    assert_eq!(bytes[8..12], [2, 0, 0, 0]);
    assert_eq!(bytes[12..16], 43_200_u32.to_le_bytes());
    assert_eq!(bytes[16..20], [0x34, 0x27, 0xc9, 0x55]);
    assert_eq!(bytes[32..36], [0x21, 0x11, 0x11, 0x73]);
    assert_eq!(bytes[48..52], [0x4f, 0x13, 0xe2, 0x58]);
    assert_eq!(bytes[64..68], [0x3c, 0x2d, 0x1e, 0x0f]);
    assert_eq!(bytes[80..84], [25, 0, 0, 0]);
    assert_eq!(bytes[84..92], 134_180_000_130_000_000_u64.to_le_bytes());
    assert_eq!(bytes[92..108], [0; 16]);
    assert_eq!(bytes[108..114], *b"P\0C\x001\0");
    assert_eq!(bytes[138..236], [0; 98]);
    assert_eq!(BaseRequest::decode(&bytes), Ok(request(Protocol::V6)));
}

#[test]
fn a_base_response_lies_as_the_table_says() {
    let mut bytes = Vec::new();
    response(Protocol::V5, "ab").encode(&mut bytes);
    assert_eq!(bytes.len(), 44 + 6);
    assert_eq!(bytes[0..4], [0, 0, 5, 0]);
    assert_eq!(bytes[4..8], [6, 0, 0, 0]);
    assert_eq!(bytes[8..14], *b"a\0b\0\0\0");
    assert_eq!(bytes[14..18], [0x3c, 0x2d, 0x1e, 0x0f]);
    assert_eq!(bytes[30..38], 134_180_000_130_000_000_u64.to_le_bytes());
    assert_eq!(bytes[38..42], [50, 0, 0, 0]);
    assert_eq!(bytes[42..46], [120, 0, 0, 0]);
    assert_eq!(bytes[46..50], 10_080_u32.to_le_bytes());
    assert_eq!(
        BaseResponse::decode(&bytes),
        Ok(response(Protocol::V5, "ab"))
    );
}

#[test]
fn envelopes_have_the_documented_lengths() {
    let epid = "12345-12345-123-123456-03-1033-12345.0000-00120261";
    let epid = &epid[..48];
    for (protocol, asked, told) in [
        (Protocol::V4, 252, 158),
        (Protocol::V5, 260, 212),
        (Protocol::V6, 260, 260),
    ] {
        let envelope = sealed(&request(protocol));
        assert_eq!(envelope.len(), asked, "{protocol}");
        assert_eq!(request_len(protocol), asked);
        assert_eq!(envelope[..4], [0, 0, envelope[2], 0]);
        assert_eq!(answered(&envelope, &response(protocol, epid)).len(), told);
    }
    // The formulas of the reference, for every length of an extended PID.
    for units in 0..=MAX_EPID_UNITS {
        let p = 2 * (units + 1);
        let epid = "x".repeat(units);
        let envelopes = PROTOCOLS.map(|protocol| answered(b"", &response(protocol, &epid)).len());
        let expected = [
            60 + p,
            20 + 16 * ((92 + p) / 16 + 1),
            20 + 16 * ((132 + p) / 16 + 1),
        ];
        assert_eq!(envelopes, expected, "{units} units");
    }
}

#[test]
fn only_the_version_and_the_iv_are_in_clear() {
    let envelope = sealed(&request(Protocol::V6));
    assert_eq!(envelope[..4], [0, 0, 6, 0]);
    assert_eq!(envelope[4..20], IV);
    let mut base = Vec::new();
    request(Protocol::V6).encode(&mut base);
    assert!(
        !envelope
            .windows(16)
            .any(|window| base.windows(16).any(|part| part == window))
    );
}

#[test]
fn a_request_of_another_length_is_told_from_a_damaged_one() {
    for protocol in PROTOCOLS {
        let mut envelope = sealed(&request(protocol));
        let expected = envelope.len();
        envelope.push(0);
        let length = |actual| MessageError::Length {
            version: protocol.into(),
            expected,
            actual,
        };
        assert_eq!(
            open_request(&LabSuite, &envelope, false),
            Err(length(expected + 1))
        );
        assert_eq!(
            open_request(&LabSuite, &envelope, true),
            Ok(request(protocol))
        );
        let short = &envelope[..expected - 1];
        assert_eq!(
            open_request(&LabSuite, short, true),
            Err(length(expected - 1))
        );
    }
}

#[test]
fn an_unknown_version_is_said_before_anything_is_touched() {
    let version = Version { major: 4, minor: 1 };
    let mut envelope = sealed(&request(Protocol::V4));
    envelope[0] = 1;
    assert_eq!(
        open_request(&LabSuite, &envelope, false),
        Err(MessageError::Version(version))
    );
    assert!(matches!(
        open_request(&LabSuite, &[0, 0, 6], false),
        Err(MessageError::Cursor(_))
    ));
    let mut unknown = request(Protocol::V6);
    unknown.version = version;
    let mut out = vec![7];
    assert_eq!(
        seal_request(&LabSuite, &unknown, &IV, &mut out),
        Err(MessageError::Version(version))
    );
    assert_eq!(out, [7]);
}

#[test]
fn a_foreign_seal_is_refused_with_its_reason() {
    let mut v4 = sealed(&request(Protocol::V4));
    *v4.last_mut().unwrap() ^= 1;
    assert_eq!(
        open_request(&LabSuite, &v4, false),
        Err(SealError::Tag.into())
    );
    // The last block decrypts to something else: the padding is in it.
    let mut v5 = sealed(&request(Protocol::V5));
    *v5.last_mut().unwrap() ^= 1;
    assert_eq!(
        open_request(&LabSuite, &v5, false),
        Err(SealError::Padding.into())
    );
    // In CBC a flipped bit of the IV flips that bit of the first block.
    let mut v6 = sealed(&request(Protocol::V6));
    v6[4 + 2] ^= 1;
    let (outer, inner) = (Protocol::V6.into(), Version { major: 7, minor: 0 });
    assert_eq!(
        open_request(&LabSuite, &v6, false),
        Err(SealError::InnerVersion { outer, inner }.into())
    );
    // A V5 request under a V6 heading.
    let mut lifted = sealed(&request(Protocol::V5));
    lifted[2] = 6;
    assert!(matches!(
        open_request(&LabSuite, &lifted, false),
        Err(MessageError::Seal(SealError::InnerVersion { .. }))
    ));
}

/// A response whose region was changed at `at` before it was encrypted.
fn forged(protocol: Protocol, at: usize) -> Result<envelope::OpenResponse, MessageError> {
    let asked = sealed(&request(protocol));
    let mut answer = answered(&asked, &response(protocol, "lab"));
    let (clear, region) = answer.split_at_mut(20);
    let iv = clear[4..].try_into().unwrap();
    LabSuite.decrypt(protocol, &iv, region);
    region[at] ^= 1;
    LabSuite.encrypt(protocol, &iv, region);
    open_response(&LabSuite, &asked, &answer)
}

#[test]
fn every_part_of_a_response_is_checked() {
    use SealError::*;
    let p = 8; // bytes of the extended PID `lab`
    for (protocol, at, error) in [
        (Protocol::V5, 36 + p, ResponseCheck),
        (Protocol::V5, 44 + p, RequestCheck),
        (Protocol::V5, 60 + p, ResponseCheck),
        (Protocol::V5, 92 + p, Padding),
        (Protocol::V6, 32 + p, ResponseCheck),
        (Protocol::V6, 44 + p, RequestCheck),
        (Protocol::V6, 60 + p, ResponseCheck),
        (Protocol::V6, 92 + p, HardwareCheck),
        (Protocol::V6, 100 + p, HardwareCheck),
        (Protocol::V6, 116 + p, Integrity),
        (Protocol::V6, 132 + p, Padding),
    ] {
        let expected = Err(MessageError::Seal(error));
        assert_eq!(forged(protocol, at), expected, "{protocol} at {at}");
    }
}

#[test]
fn a_response_answers_its_own_request_only() {
    for protocol in [Protocol::V5, Protocol::V6] {
        let asked = sealed(&request(protocol));
        let answer = answered(&asked, &response(protocol, "lab"));
        let mut other = asked.clone();
        other[30] ^= 1;
        assert_eq!(
            open_response(&LabSuite, &other, &answer),
            Err(SealError::RequestCheck.into())
        );
    }
}

#[test]
fn a_response_is_whole_blocks() {
    let asked = sealed(&request(Protocol::V6));
    let mut answer = answered(&asked, &response(Protocol::V6, "lab"));
    answer.pop();
    let length = answer.len() - 20;
    assert_eq!(
        open_response(&LabSuite, &asked, &answer),
        Err(SealError::Blocks { length }.into())
    );
}

#[test]
fn extended_pids_have_a_length_and_one_nul() {
    let with = |len: u32, text: &[u8]| {
        let mut bytes = vec![0, 0, 6, 0];
        bytes.extend(len.to_le_bytes());
        bytes.extend(text);
        bytes.extend([0; 36]);
        BaseResponse::decode(&bytes).map(|response| response.epid.to_string())
    };
    assert_eq!(with(2, b"\0\0"), Ok(String::new()));
    assert_eq!(with(4, b"a\0\0\0"), Ok("a".into()));
    for bytes in [0, 1, 3, 130, u32::MAX] {
        let error = EpidError::Length { bytes };
        assert_eq!(with(bytes, &[b'a'; 130]), Err(error.into()), "{bytes}");
    }
    assert_eq!(with(4, b"a\0b\0"), Err(EpidError::Nul.into()));
    assert_eq!(with(6, b"a\0\0\0\0\0"), Err(EpidError::Nul.into()));
    assert!(matches!(with(128, b"a\0"), Err(MessageError::Cursor(_))));

    let longest = "x".repeat(63);
    assert_eq!(longest.parse::<Epid>().unwrap().to_string(), longest);
    assert_eq!(
        "x".repeat(64).parse::<Epid>(),
        Err(EpidError::TooLong { units: 64 })
    );
    assert_eq!("a\0b".parse::<Epid>(), Err(EpidError::Nul));
}

#[test]
fn workstation_names_end_at_the_first_nul_or_at_64_units() {
    let mut units = [0x41; 64];
    assert_eq!(WorkstationName(units).cleaned(), "A".repeat(64));
    units[3] = 0;
    assert_eq!(WorkstationName(units).cleaned(), "AAA");
    // A lone surrogate, a line feed and a right-to-left override.
    units[..3].copy_from_slice(&[0xD800, 0x0A, 0x202E]);
    assert_eq!(WorkstationName(units).cleaned(), "\u{FFFD}\u{FFFD}\u{FFFD}");
    assert_eq!(WorkstationName([0; 64]).cleaned(), "");
    assert_eq!("x".repeat(63).parse::<WorkstationName>().unwrap().0[63], 0);
    assert_eq!(
        "x".repeat(64).parse::<WorkstationName>(),
        Err(NameTooLong { units: 64 })
    );
}

fn any_request() -> impl Strategy<Value = BaseRequest> {
    let ids = any::<[u128; 5]>().prop_map(|ids| ids.map(Uuid::from_u128));
    let numbers = any::<[u32; 4]>();
    let name = any::<[u16; 32]>();
    let fields = (0..PROTOCOLS.len(), ids, numbers, any::<u64>(), name);
    fields.prop_map(|(protocol, ids, numbers, time, half)| {
        let mut name = [0; 64];
        name[..32].copy_from_slice(&half);
        name[32..].copy_from_slice(&half);
        BaseRequest {
            version: PROTOCOLS[protocol].into(),
            virtual_machine: numbers[0],
            license_status: numbers[1],
            remaining_minutes: numbers[2],
            application_id: ids[0],
            activation_id: ids[1],
            kms_counted_id: ids[2],
            client_machine_id: ids[3],
            min_clients: numbers[3],
            client_time: FileTime(time),
            previous_client_machine_id: ids[4],
            workstation: WorkstationName(name),
        }
    })
}

fn any_response() -> impl Strategy<Value = BaseResponse> {
    let fields = (
        0..PROTOCOLS.len(),
        "\\PC{0,31}",
        any::<u128>(),
        any::<u64>(),
        any::<[u32; 3]>(),
    );
    fields.prop_map(|(protocol, epid, id, time, numbers)| BaseResponse {
        version: PROTOCOLS[protocol].into(),
        epid: epid.parse().unwrap(),
        client_machine_id: Uuid::from_u128(id),
        client_time: FileTime(time),
        active_clients: numbers[0],
        activation_interval: numbers[1],
        renewal_interval: numbers[2],
    })
}

proptest! {
    #[test]
    fn requests_survive_the_way(request in any_request(), iv: [u8; 16]) {
        let mut out = Vec::new();
        seal_request(&LabSuite, &request, &iv, &mut out).unwrap();
        prop_assert_eq!(open_request(&LabSuite, &out, false), Ok(request));
    }

    #[test]
    fn responses_survive_the_way(
        asked in vec(any::<u8>(), 0..300),
        response in any_response(),
        hardware: [u8; 8],
        iv: [u8; 16],
    ) {
        let mut out = Vec::new();
        seal_response(&LabSuite, &asked, &response, hardware, &iv, &mut out).unwrap();
        let v6 = response.version.major == 6;
        let opened = envelope::OpenResponse {
            response,
            hardware_id: v6.then_some(hardware),
        };
        prop_assert_eq!(open_response(&LabSuite, &asked, &out), Ok(opened));
    }

    #[test]
    fn a_changed_bit_of_a_v4_or_v6_response_is_noticed(
        response in any_response(),
        v6: bool,
        at: proptest::sample::Index,
        bit in 0..8_u8,
    ) {
        let protocol = if v6 { Protocol::V6 } else { Protocol::V4 };
        let response = BaseResponse { version: protocol.into(), ..response };
        let asked = sealed(&request(protocol));
        let mut answer = answered(&asked, &response);
        let at = at.index(answer.len());
        answer[at] ^= 1 << bit;
        prop_assert!(open_response(&LabSuite, &asked, &answer).is_err());
    }

    #[test]
    fn junk_is_no_message(
        version in prop_oneof![Just([0, 0, 4, 0]), Just([0, 0, 5, 0]), Just([0, 0, 6, 0])],
        junk in vec(any::<u8>(), 0..600),
    ) {
        let message = [&version[..], &junk].concat();
        prop_assert!(open_request(&LabSuite, &message, true).is_err());
        prop_assert!(open_response(&LabSuite, b"", &message).is_err());
    }
}
