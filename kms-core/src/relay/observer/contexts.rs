//! The contexts of a session: what a client offered, and what became of it.

use std::collections::VecDeque;

use crate::pdu::{Bind, BindAck, ContextElement, KMS_INTERFACE, NDR32, NDR64};
use crate::stub::Encoding;

/// How many contexts are remembered, as many as `kms-core serve` binds: 1 KiB.
pub(super) const MAX_CONTEXTS: usize = 256;

/// How many binds may wait for their answers; beyond that the oldest is forgotten. A
/// PDU has room for 242 offers, so that these take less than 4 KiB.
pub(super) const MAX_OFFERED: usize = 4;

/// What requests can be made in.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// Binds and alter_contexts that are not answered yet, oldest first.
    pub(super) offered: VecDeque<Offered>,
    pub(super) bound: Vec<(u16, Encoding)>,
}

/// What a bind or an alter_context offers.
#[derive(Debug)]
pub(super) struct Offered {
    call_id: u32,
    /// Ids, each with an encoding where it is one of KMS.
    contexts: Vec<(u16, Option<Encoding>)>,
}

impl Contexts {
    /// Whether a bind waits for its answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.offered.is_empty()
    }

    /// A bind or an alter_context. False when the oldest was forgotten for it.
    pub(super) fn offer(&mut self, call_id: u32, bind: &Bind) -> bool {
        let room = self.offered.len() < MAX_OFFERED;
        if !room {
            self.offered.pop_front();
        }
        let contexts = bind.contexts.iter().map(offer).collect();
        self.offered.push_back(Offered { call_id, contexts });
        room
    }

    /// An answer, to the oldest if its id is nobody's.
    pub(super) fn accepted(&mut self, call_id: u32, ack: &BindAck) {
        let offered = self.offered.iter().position(|it| it.call_id == call_id);
        let Some(offered) = self.offered.remove(offered.unwrap_or(0)) else {
            return;
        };
        for ((id, encoding), answer) in offered.contexts.into_iter().zip(&ack.answers) {
            let Some(encoding) = encoding.filter(|_| answer.is_accepted()) else {
                continue;
            };
            // An offer of several syntaxes is accepted in one of them.
            let encoding = encoding_of(answer.syntax.uuid).unwrap_or(encoding);
            if let Some((_, known)) = self.bound.iter_mut().find(|(known, _)| *known == id) {
                *known = encoding;
            } else if self.bound.len() < MAX_CONTEXTS {
                self.bound.push((id, encoding));
            }
        }
    }

    /// A bind is refused altogether, and with it whatever was offered.
    pub(super) fn refused(&mut self) {
        self.offered.clear();
    }

    /// Whether a fault with this id refuses what a bind or an alter_context offered.
    pub(super) fn failed(&mut self, call_id: u32) -> bool {
        let offered = self.offered.iter().position(|it| it.call_id == call_id);
        offered.is_some_and(|at| self.offered.remove(at).is_some())
    }

    /// The encoding of a context that is bound.
    pub(super) fn encoding(&self, context_id: u16) -> Option<Encoding> {
        let mut bound = self.bound.iter();
        bound.find_map(|(id, encoding)| (*id == context_id).then_some(*encoding))
    }
}

fn offer(context: &ContextElement) -> (u16, Option<Encoding>) {
    let mut syntaxes = context.transfer_syntaxes.iter();
    let encoding = syntaxes
        .find_map(|syntax| encoding_of(syntax.uuid))
        .filter(|_| context.interface.uuid == KMS_INTERFACE.uuid);
    (context.id, encoding)
}

pub(super) fn encoding_of(syntax: uuid::Uuid) -> Option<Encoding> {
    match syntax {
        uuid if uuid == NDR32.uuid => Some(Encoding::Ndr32),
        uuid if uuid == NDR64.uuid => Some(Encoding::Ndr64),
        _ => None,
    }
}
