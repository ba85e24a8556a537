use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::{Uuid, uuid};

use super::*;

fn bytes(pdu: &Pdu<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    pdu.encode(&mut out).unwrap();
    out
}

fn read(bytes: &[u8]) -> Result<Pdu<'_>, PduError> {
    match frame(bytes) {
        Ok(Frame::Whole { header, body }) => Pdu::decode(&header, body),
        other => panic!("{other:?}"),
    }
}

/// Both directions of one sample.
fn same(hex: &str, pdu: &Pdu<'_>) {
    let sample: Vec<u8> = hex
        .split_whitespace()
        .flat_map(|word| (0..word.len()).step_by(2).map(|at| &word[at..at + 2]))
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    assert_eq!(bytes(pdu), sample);
    assert_eq!(read(&sample).as_ref(), Ok(pdu));
}

#[test]
fn a_bind_as_windows_sends_it() {
    let element = |id, syntax| ContextElement {
        id,
        interface: KMS_INTERFACE,
        transfer_syntaxes: vec![syntax],
    };
    let btfn = SyntaxId::btfn(3);
    assert_eq!(btfn.uuid, uuid!("6cb71c2c-9812-4540-0300-000000000000"));
    same(
        "05000b13 10000000 a0000000 02000000 d016d016 00000000 03000000
         00000100 7521c8514e845047b0d8ec255555bc06 01000000
                  045d888aeb1cc9119fe808002b104860 02000000
         01000100 7521c8514e845047b0d8ec255555bc06 01000000
                  33057171babe37498319b5dbef9ccc36 01000000
         02000100 7521c8514e845047b0d8ec255555bc06 01000000
                  2c1cb76c129840450300000000000000 01000000",
        &Pdu {
            flags: Flags::WHOLE.with(Flags::CONC_MPX),
            call_id: 2,
            body: Body::Bind(Bind {
                max_xmit_frag: 5840,
                max_recv_frag: 5840,
                assoc_group_id: 0,
                contexts: vec![element(0, NDR32), element(1, NDR64), element(2, btfn)],
            }),
        },
    );
}

#[test]
fn a_bind_ack_with_every_kind_of_answer() {
    same(
        "05000c13 10000000 6c000000 02000000 d016d016 87654321
         0500 31363838 00 00 03000000
         0200 0200 00000000000000000000000000000000 00000000
         0000 0000 33057171babe37498319b5dbef9ccc36 01000000
         0300 0300 00000000000000000000000000000000 00000000",
        &Pdu {
            flags: Flags::WHOLE.with(Flags::CONC_MPX),
            call_id: 2,
            body: Body::BindAck(BindAck {
                max_xmit_frag: 5840,
                max_recv_frag: 5840,
                assoc_group_id: 0x2143_6587,
                secondary_address: b"1688\0".to_vec(),
                answers: vec![
                    ContextAnswer::rejected(RejectReason::TransferSyntaxes),
                    ContextAnswer::accepted(NDR64),
                    ContextAnswer::negotiated(3),
                ],
            }),
        },
    );
}

#[test]
fn an_alter_context_response_has_no_address() {
    same(
        "05000f03 10000000 38000000 03000000 d016d016 01000000 0000 0000 01000000
         0000 0000 045d888aeb1cc9119fe808002b104860 02000000",
        &Pdu {
            flags: Flags::WHOLE,
            call_id: 3,
            body: Body::AlterContextResponse(BindAck {
                max_xmit_frag: 5840,
                max_recv_frag: 5840,
                assoc_group_id: 1,
                secondary_address: Vec::new(),
                answers: vec![ContextAnswer::accepted(NDR32)],
            }),
        },
    );
}

#[test]
fn a_bind_nak_that_lists_what_is_spoken() {
    same(
        "05000d03 10000000 15000000 02000000 0400 01 0500",
        &Pdu {
            flags: Flags::WHOLE,
            call_id: 2,
            body: Body::BindNak(BindNak {
                reason: NakReason::VERSION,
                versions: vec![(5, 0)],
            }),
        },
    );
}

#[test]
fn a_request_without_and_with_an_object() {
    let request = Request {
        alloc_hint: 4,
        context_id: 1,
        opnum: 0,
        object: None,
        stub: b"stub",
    };
    let pdu = |request| Pdu {
        flags: Flags::WHOLE,
        call_id: 2,
        body: Body::Request(request),
    };
    same(
        "05000003 10000000 1c000000 02000000 04000000 0100 0000 73747562",
        &pdu(request),
    );
    let mut with_object = pdu(Request {
        object: Some(uuid!("00112233-4455-6677-8899-aabbccddeeff")),
        ..request
    });
    with_object.flags = Flags::WHOLE.with(Flags::OBJECT);
    same(
        "05000083 10000000 2c000000 02000000 04000000 0100 0000
         33221100554477668899aabbccddeeff 73747562",
        &with_object,
    );
}

#[test]
fn a_response_and_a_fault() {
    same(
        "05000203 10000000 1c000000 02000000 04000000 0100 0000 73747562",
        &Pdu {
            flags: Flags::WHOLE,
            call_id: 2,
            body: Body::Response(Response {
                alloc_hint: 4,
                context_id: 1,
                cancel_count: 0,
                stub: b"stub",
            }),
        },
    );
    same(
        "05000323 10000000 20000000 02000000 20000000 0000 0000 0300011c 00000000",
        &Pdu {
            flags: Flags::WHOLE.with(Flags::DID_NOT_EXECUTE),
            call_id: 2,
            body: Body::Fault(Fault {
                alloc_hint: 32,
                context_id: 0,
                cancel_count: 0,
                status: FaultStatus::UNKNOWN_INTERFACE,
            }),
        },
    );
}

#[test]
fn every_type_has_its_own_number() {
    for code in 0..=u8::MAX {
        assert_eq!(PacketType::from_code(code).code(), code);
    }
    assert_eq!(PacketType::from_code(1), PacketType::Other(1));
    assert_eq!(PacketType::from_code(18), PacketType::CoCancel);
    assert_eq!(PacketType::from_code(19), PacketType::Orphaned);
}

#[test]
fn reserved_bytes_of_a_context_list_are_no_part_of_its_count() {
    let mut sample = bytes(&Pdu {
        flags: Flags::WHOLE,
        call_id: 2,
        body: Body::Bind(Bind {
            max_xmit_frag: 5840,
            max_recv_frag: 5840,
            assoc_group_id: 0,
            contexts: vec![],
        }),
    });
    sample[25..28].fill(0xFF);
    let Ok(Pdu {
        body: Body::Bind(bind),
        ..
    }) = read(&sample)
    else {
        panic!()
    };
    assert_eq!(bind.contexts, []);
}

#[test]
fn lists_longer_than_their_bytes_are_too_short() {
    let mut sample = vec![5, 0, 11, 3, 0x10, 0, 0, 0, 28, 0, 0, 0, 2, 0, 0, 0];
    sample.extend([0; 8]);
    sample.extend([255, 0, 0, 0]);
    assert_eq!(
        read(&sample),
        Err(PduError::Cursor(CursorError::Short {
            at: 12,
            wanted: 2,
            left: 0
        }))
    );
}

#[test]
fn another_version_and_authentication_are_said_with_their_values() {
    let mut sample = bytes(&Pdu {
        flags: Flags::WHOLE,
        call_id: 2,
        body: Body::Other(PacketType::CoCancel, &[]),
    });
    sample[1] = 1;
    assert_eq!(read(&sample), Err(PduError::Version { major: 5, minor: 1 }));
    sample[1] = 0;
    sample[10] = 16;
    assert_eq!(
        read(&sample),
        Err(PduError::Authentication { auth_length: 16 })
    );
}

#[test]
fn what_cannot_be_written_leaves_the_buffer_alone() {
    let stub = vec![0; 5840 - 24];
    let pdu = |stub| Pdu {
        flags: Flags::WHOLE,
        call_id: 2,
        body: Body::Request(Request {
            alloc_hint: 0,
            context_id: 0,
            opnum: 0,
            object: None,
            stub,
        }),
    };
    let mut out = vec![1, 2, 3];
    assert_eq!(pdu(&stub[..]).encode(&mut out), Ok(()));
    assert_eq!(out.len(), 3 + 5840);
    out.truncate(3);
    let longer = [&stub[..], &[0]].concat();
    assert_eq!(
        pdu(&longer[..]).encode(&mut out),
        Err(PduError::TooLong { length: 5841 })
    );
    let naks = Pdu {
        flags: Flags::WHOLE,
        call_id: 2,
        body: Body::BindNak(BindNak {
            reason: NakReason::VERSION,
            versions: vec![(5, 0); 256],
        }),
    };
    assert_eq!(naks.encode(&mut out), Err(PduError::TooMany { count: 256 }));
    assert_eq!(out, [1, 2, 3]);
}

fn header(frag_length: u16) -> [u8; 16] {
    let [low, high] = frag_length.to_le_bytes();
    [5, 0, 0, 3, 0x10, 0, 0, 0, low, high, 0, 0, 2, 0, 0, 0]
}

#[test]
fn lengths_are_checked_before_anything_is_waited_for() {
    assert_eq!(frame(&[]), Ok(Frame::NeedMore { total: 16 }));
    assert_eq!(frame(&header(5840)), Ok(Frame::NeedMore { total: 5840 }));
    assert_eq!(
        frame(&header(5841)),
        Err(FrameError::TooLong { frag_length: 5841 })
    );
    assert_eq!(
        frame(&header(15)),
        Err(FrameError::TooShort { frag_length: 15 })
    );
}

#[test]
fn big_endian_is_told_from_the_header_alone() {
    let mut sample = header(160);
    sample[2] = 11;
    sample[4] = 0;
    sample[12..].copy_from_slice(&[0, 0, 0, 7]);
    assert_eq!(
        frame(&sample),
        Err(FrameError::ByteOrder {
            drep: [0; 4],
            version: (5, 0),
            packet_type: PacketType::Bind,
            call_id: 7,
        })
    );
    // EBCDIC or VAX floats, with little-endian integers, hurt nobody.
    let mut sample = header(16);
    sample[4..6].copy_from_slice(&[0x11, 1]);
    assert!(matches!(frame(&sample), Ok(Frame::Whole { .. })));
}

fn syntax() -> impl Strategy<Value = SyntaxId> {
    let any = (any::<u128>(), any::<u16>(), any::<u16>());
    any.prop_map(|(uuid, major, minor)| SyntaxId {
        uuid: Uuid::from_u128(uuid),
        major,
        minor,
    })
}

fn a_bind() -> impl Strategy<Value = Bind> {
    let element = (any::<u16>(), syntax(), vec(syntax(), 0..4)).prop_map(
        |(id, interface, transfer_syntaxes)| ContextElement {
            id,
            interface,
            transfer_syntaxes,
        },
    );
    let fields = (
        any::<u16>(),
        any::<u16>(),
        any::<u32>(),
        vec(element, 0..40),
    );
    fields.prop_map(
        |(max_xmit_frag, max_recv_frag, assoc_group_id, contexts)| Bind {
            max_xmit_frag,
            max_recv_frag,
            assoc_group_id,
            contexts,
        },
    )
}

fn an_ack() -> impl Strategy<Value = BindAck> {
    let answer = (any::<u16>(), any::<u16>(), syntax());
    let answer = answer.prop_map(|(result, reason, syntax)| ContextAnswer {
        result,
        reason,
        syntax,
    });
    let fields = (
        any::<u16>(),
        any::<u16>(),
        any::<u32>(),
        vec(any::<u8>(), 0..40),
        vec(answer, 0..40),
    );
    fields.prop_map(
        |(max_xmit_frag, max_recv_frag, group, address, answers)| BindAck {
            max_xmit_frag,
            max_recv_frag,
            assoc_group_id: group,
            secondary_address: address,
            answers,
        },
    )
}

/// Owned parts of any body; the stub is lent to it.
#[derive(Clone, Debug)]
enum Owned {
    Request(u32, u16, u16, Option<u128>),
    Response(u32, u16, u8),
    Fault(u32, u16, u8, u32),
    Bind(Bind),
    BindAck(BindAck),
    BindNak(u16, Vec<(u8, u8)>),
    AlterContext(Bind),
    AlterContextResponse(BindAck),
    Other(u8),
}

impl Owned {
    fn lend<'a>(&self, stub: &'a [u8]) -> Body<'a> {
        match self.clone() {
            Self::Request(alloc_hint, context_id, opnum, object) => Body::Request(Request {
                alloc_hint,
                context_id,
                opnum,
                object: object.map(Uuid::from_u128),
                stub,
            }),
            Self::Response(alloc_hint, context_id, cancel_count) => Body::Response(Response {
                alloc_hint,
                context_id,
                cancel_count,
                stub,
            }),
            Self::Fault(alloc_hint, context_id, cancel_count, status) => Body::Fault(Fault {
                alloc_hint,
                context_id,
                cancel_count,
                status: FaultStatus(status),
            }),
            Self::Bind(bind) => Body::Bind(bind),
            Self::BindAck(ack) => Body::BindAck(ack),
            Self::BindNak(reason, versions) => Body::BindNak(BindNak {
                reason: NakReason(reason),
                versions,
            }),
            Self::AlterContext(bind) => Body::AlterContext(bind),
            Self::AlterContextResponse(ack) => Body::AlterContextResponse(ack),
            Self::Other(code) => Body::Other(PacketType::from_code(code), stub),
        }
    }
}

fn any_body() -> impl Strategy<Value = Owned> {
    prop_oneof![
        (
            any::<u32>(),
            any::<u16>(),
            any::<u16>(),
            option::of(any::<u128>())
        )
            .prop_map(|(a, b, c, d)| Owned::Request(a, b, c, d)),
        (any::<u32>(), any::<u16>(), any::<u8>()).prop_map(|(a, b, c)| Owned::Response(a, b, c)),
        (any::<u32>(), any::<u16>(), any::<u8>(), any::<u32>())
            .prop_map(|(a, b, c, d)| Owned::Fault(a, b, c, d)),
        a_bind().prop_map(Owned::Bind),
        an_ack().prop_map(Owned::BindAck),
        (any::<u16>(), vec((any::<u8>(), any::<u8>()), 0..256))
            .prop_map(|(a, b)| Owned::BindNak(a, b)),
        a_bind().prop_map(Owned::AlterContext),
        an_ack().prop_map(Owned::AlterContextResponse),
        (16_u8..).prop_map(Owned::Other),
    ]
}

proptest! {
    #[test]
    fn every_pdu_survives_the_way(
        owned in any_body(),
        stub in vec(any::<u8>(), 0..400),
        flags: u8,
        call_id: u32,
        next: Vec<u8>,
    ) {
        let body = owned.lend(&stub);
        let mut flags = Flags(flags).without(Flags::OBJECT);
        if matches!(body, Body::Request(Request { object: Some(_), .. })) {
            flags = flags.with(Flags::OBJECT);
        }
        let pdu = Pdu { flags, call_id, body };
        let mut sent = bytes(&pdu);
        let len = sent.len();
        sent.extend(next);
        let Ok(Frame::Whole { header, body }) = frame(&sent) else { panic!() };
        prop_assert_eq!(usize::from(header.frag_length), len);
        prop_assert_eq!(Pdu::decode(&header, body), Ok(pdu));
        for cut in [0, 15, 16, len - 1] {
            let needs_more = matches!(frame(&sent[..cut]), Ok(Frame::NeedMore { .. }));
            prop_assert!(cut >= len || needs_more);
        }
    }

    #[test]
    fn junk_is_read_or_refused_and_never_waited_for_beyond_the_cap(junk: Vec<u8>) {
        match frame(&junk) {
            Ok(Frame::Whole { header, body }) => {
                prop_assert_eq!(body.len() + HEADER_LEN, usize::from(header.frag_length));
                if let Ok(pdu) = Pdu::decode(&header, body) {
                    prop_assert_eq!(pdu.call_id, header.call_id);
                }
            }
            Ok(Frame::NeedMore { total }) => {
                prop_assert!(total > junk.len() && total <= usize::from(MAX_FRAGMENT));
            }
            Err(_) => prop_assert!(junk.len() >= HEADER_LEN),
        }
    }
}

#[test]
fn a_response_made_in_place_is_the_one_made_of_its_stub() {
    let stub = [7; 61];
    let whole = bytes(&Pdu {
        flags: Flags::WHOLE,
        call_id: 9,
        body: Body::Response(Response {
            alloc_hint: 61,
            context_id: 1,
            cancel_count: 0,
            stub: &stub,
        }),
    });
    // Behind an answer that waits to be sent.
    let mut out = vec![1; 5];
    let made = encode_response(9, 1, &mut out, |out| out.extend_from_slice(&stub));
    assert_eq!(made, Ok(()));
    assert_eq!(out[..5], [1; 5]);
    assert_eq!(out[5..], whole);
}

#[test]
fn a_response_made_in_place_that_is_too_long_leaves_nothing() {
    let mut out = vec![1; 5];
    let made = encode_response(9, 1, &mut out, |out| out.extend_from_slice(&[7; 5840]));
    assert_eq!(made, Err(PduError::TooLong { length: 5864 }));
    assert_eq!(out, [1; 5]);
}
