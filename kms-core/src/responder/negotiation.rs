//! Which of the contexts that a client offers are accepted, and in which encoding.

use crate::pdu::{
    ContextAnswer, ContextElement, KMS_INTERFACE, NDR32, NDR64, RejectReason, SyntaxId,
};
use crate::stub::Encoding;

/// The features of bind time negotiation that are agreed to: security context
/// multiplexing, and keeping a connection whose call was orphaned.
const FEATURES: u16 = 0x0003;

/// What a server speaks beside NDR32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spoken {
    pub(super) ndr64: bool,
    pub(super) btfn: bool,
}

/// A syntax that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Data(Encoding),
    Features(u16),
}

/// The answers to the offers of one PDU, and for each accepted one its encoding.
///
/// At most one data syntax is accepted per PDU: where both are chosen, NDR64 wins.
pub(super) fn negotiate(
    spoken: Spoken,
    offers: &[ContextElement],
) -> Vec<(ContextAnswer, Option<Encoding>)> {
    let choices: Vec<_> = offers.iter().map(|offer| choose(spoken, offer)).collect();
    let ndr64 = Ok(Choice::Data(Encoding::Ndr64));
    let ndr64_wins = choices.contains(&ndr64);
    let answer = |choice| match choice {
        Ok(Choice::Data(Encoding::Ndr64)) => {
            (ContextAnswer::accepted(NDR64), Some(Encoding::Ndr64))
        }
        Ok(Choice::Data(Encoding::Ndr32)) if ndr64_wins => (
            ContextAnswer::rejected(RejectReason::TransferSyntaxes),
            None,
        ),
        Ok(Choice::Data(Encoding::Ndr32)) => {
            (ContextAnswer::accepted(NDR32), Some(Encoding::Ndr32))
        }
        Ok(Choice::Features(features)) => (ContextAnswer::negotiated(features), None),
        Err(reason) => (ContextAnswer::rejected(reason), None),
    };
    choices.into_iter().map(answer).collect()
}

/// The first syntax of an offer that is spoken.
fn choose(spoken: Spoken, offer: &ContextElement) -> Result<Choice, RejectReason> {
    let SyntaxId { uuid, major, minor } = KMS_INTERFACE;
    let interface = offer.interface;
    // A host speaks a minor version and all below it; there is none below 0.
    if interface.uuid != uuid || interface.major != major || interface.minor > minor {
        return Err(RejectReason::AbstractSyntax);
    }
    let mut syntaxes = offer.transfer_syntaxes.iter();
    let spoken = |syntax: &SyntaxId| match *syntax {
        NDR32 => Some(Choice::Data(Encoding::Ndr32)),
        NDR64 if spoken.ndr64 => Some(Choice::Data(Encoding::Ndr64)),
        SyntaxId {
            major: 1, minor: 0, ..
        } if spoken.btfn => {
            let offered = syntax.btfn_features()?;
            Some(Choice::Features(offered & FEATURES))
        }
        _ => None,
    };
    let first = syntaxes.find_map(spoken);
    first.ok_or(RejectReason::TransferSyntaxes)
}

#[cfg(test)]
mod tests {
    use uuid::uuid;

    use super::*;

    const ALL: Spoken = Spoken {
        ndr64: true,
        btfn: true,
    };
    const NDR32_ONLY: Spoken = Spoken {
        ndr64: false,
        btfn: false,
    };

    fn offer(syntaxes: &[SyntaxId]) -> ContextElement {
        ContextElement {
            id: 0,
            interface: KMS_INTERFACE,
            transfer_syntaxes: syntaxes.to_vec(),
        }
    }

    fn answers(spoken: Spoken, offers: &[ContextElement]) -> Vec<ContextAnswer> {
        let answers = negotiate(spoken, offers).into_iter();
        answers
            .map(|(answer, encoding)| {
                assert_eq!(answer.is_accepted(), encoding.is_some());
                answer
            })
            .collect()
    }

    fn accepted(syntax: SyntaxId) -> ContextAnswer {
        ContextAnswer::accepted(syntax)
    }

    const NO_SYNTAX: RejectReason = RejectReason::TransferSyntaxes;

    fn rejected(reason: RejectReason) -> ContextAnswer {
        ContextAnswer::rejected(reason)
    }

    #[test]
    fn what_windows_offers() {
        let offers = [
            offer(&[NDR32]),
            offer(&[NDR64]),
            offer(&[SyntaxId::btfn(3)]),
        ];
        let both = [
            rejected(NO_SYNTAX),
            accepted(NDR64),
            ContextAnswer::negotiated(3),
        ];
        assert_eq!(answers(ALL, &offers), both);
        let old = [accepted(NDR32), rejected(NO_SYNTAX), rejected(NO_SYNTAX)];
        assert_eq!(answers(NDR32_ONLY, &offers), old);
    }

    #[test]
    fn only_known_features_are_agreed_to() {
        let offers = [
            offer(&[SyntaxId::btfn(0xFFFF)]),
            offer(&[SyntaxId::btfn(2)]),
        ];
        let agreed = [ContextAnswer::negotiated(3), ContextAnswer::negotiated(2)];
        assert_eq!(answers(ALL, &offers), agreed);
    }

    #[test]
    fn several_syntaxes_are_walked_to_the_first_that_is_spoken() {
        let foreign = SyntaxId {
            uuid: uuid::Uuid::max(),
            major: 1,
            minor: 0,
        };
        assert_eq!(answers(ALL, &[offer(&[foreign, NDR32])]), [accepted(NDR32)]);
        assert_eq!(answers(ALL, &[offer(&[NDR32, NDR64])]), [accepted(NDR32)]);
        assert_eq!(answers(ALL, &[offer(&[NDR64, NDR32])]), [accepted(NDR64)]);
        let offers = [offer(&[NDR64, NDR32])];
        assert_eq!(answers(NDR32_ONLY, &offers), [accepted(NDR32)]);
        assert_eq!(answers(ALL, &[offer(&[foreign])]), [rejected(NO_SYNTAX)]);
        assert_eq!(answers(ALL, &[offer(&[])]), [rejected(NO_SYNTAX)]);
    }

    #[test]
    fn ndr64_wins_only_where_it_is_accepted() {
        let mut elsewhere = offer(&[NDR64]);
        elsewhere.interface.uuid = uuid!("12345778-1234-abcd-ef00-0123456789ac");
        let old = SyntaxId { major: 2, ..NDR64 };
        let no_interface = rejected(RejectReason::AbstractSyntax);
        assert_eq!(
            answers(ALL, &[offer(&[NDR32]), elsewhere, offer(&[old])]),
            [accepted(NDR32), no_interface, rejected(NO_SYNTAX)]
        );
    }

    #[test]
    fn versions_must_be_spoken() {
        for (major, minor, accepts) in [(1, 0, true), (1, 1, false), (0, 0, false), (2, 0, false)] {
            let mut offer = offer(&[NDR32]);
            (offer.interface.major, offer.interface.minor) = (major, minor);
            let no_interface = rejected(RejectReason::AbstractSyntax);
            let expected = if accepts {
                accepted(NDR32)
            } else {
                no_interface
            };
            assert_eq!(answers(ALL, &[offer]), [expected], "{major}.{minor}");
        }
        for syntax in [
            SyntaxId { major: 1, ..NDR32 },
            SyntaxId { minor: 1, ..NDR32 },
            SyntaxId {
                major: 2,
                ..SyntaxId::btfn(3)
            },
        ] {
            assert_eq!(answers(ALL, &[offer(&[syntax])]), [rejected(NO_SYNTAX)]);
        }
    }
}
