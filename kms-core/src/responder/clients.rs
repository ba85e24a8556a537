//! How many clients a host says it has.

use std::collections::VecDeque;

use uuid::{Uuid, uuid};

/// A list never has more clients; vlmcsd's number.
pub const MAX_CLIENTS: usize = 671;

const WINDOWS: Uuid = uuid!("55c92734-d682-4d71-983e-d6ec3f16059f");
const OFFICE_2010: Uuid = uuid!("59a52881-a989-479d-af46-f275c6370663");
const OFFICE: Uuid = uuid!("0ff1ce15-a989-479d-af46-f275c6370663");

/// The applications, and how long their lists get until a request asks for more:
/// twice the usual N.
const LISTS: [(Uuid, usize); 3] = [(WINDOWS, 50), (OFFICE_2010, 10), (OFFICE, 10)];

/// One list of client machine ids per application.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    lists: Vec<List>,
}

#[derive(Clone, Debug)]
struct List {
    application_id: Uuid,
    /// Oldest first; at most [`MAX_CLIENTS`].
    ids: VecDeque<Uuid>,
    /// At which length the oldest makes room for the newest. It may grow beyond
    /// [`MAX_CLIENTS`]: then there is no room to be made, and the list is full.
    limit: usize,
}

/// A list has no room for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Clients {
    /// Lists that are empty, or have one client less than half their limit, as if
    /// they had run for a while: the next client is the one that makes it enough.
    pub(super) fn new(empty: bool, random: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut list = |(application_id, limit)| {
            let start = if empty { 0 } else { limit / 2 - 1 };
            let ids = (0..start).map(|_| random_id(random)).collect();
            List {
                application_id,
                ids,
                limit,
            }
        };
        Self {
            lists: LISTS.into_iter().map(&mut list).collect(),
        }
    }

    /// Counts a client that needs `required` clients, and says how many there are.
    /// An application without a list is Windows.
    pub(super) fn count(
        &mut self,
        application_id: Option<Uuid>,
        client: Uuid,
        required: u32,
    ) -> Result<usize, Full> {
        let required = usize::try_from(required).unwrap_or(usize::MAX);
        let has_list = |list: &List, id| list.application_id == id;
        let wanted = application_id.unwrap_or(WINDOWS);
        let at = self.lists.iter().position(|list| has_list(list, wanted));
        let at = at.or_else(|| self.lists.iter().position(|list| has_list(list, WINDOWS)));
        match at.and_then(|at| self.lists.get_mut(at)) {
            Some(list) => list.count(client, required),
            None => Err(Full),
        }
    }
}

impl List {
    fn count(&mut self, client: Uuid, required: usize) -> Result<usize, Full> {
        self.limit = self.limit.max(required);
        if !self.ids.contains(&client) {
            if self.ids.len() >= self.limit {
                self.ids.pop_front();
            } else if self.ids.len() >= MAX_CLIENTS {
                return Err(Full);
            }
            self.ids.push_back(client);
        }
        Ok(self.ids.len())
    }
}

fn random_id(random: &mut dyn FnMut(&mut [u8])) -> Uuid {
    let mut bytes = [0; 16];
    random(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    fn clients(empty: bool) -> Clients {
        let mut next = 0_u8;
        Clients::new(empty, &mut |bytes| {
            next += 1;
            bytes.fill(next);
        })
    }

    fn client(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn every_application_of_the_catalogue_has_a_list() {
        for product in catalog::products() {
            let has_list = |(id, _): &(Uuid, usize)| *id == product.application_id;
            assert!(LISTS.iter().any(has_list), "{}", product.name);
        }
    }

    #[test]
    fn the_first_real_client_makes_it_enough() {
        let mut lists = clients(false);
        assert_eq!(lists.count(Some(WINDOWS), client(1), 50), Ok(25));
        assert_eq!(lists.count(Some(OFFICE_2010), client(1), 10), Ok(5));
        let mut lists = clients(true);
        assert_eq!(lists.count(Some(WINDOWS), client(1), 50), Ok(1));
    }

    #[test]
    fn a_known_client_counts_once() {
        let mut lists = clients(false);
        for _ in 0..3 {
            assert_eq!(lists.count(Some(OFFICE_2010), client(7), 10), Ok(5));
        }
        assert_eq!(lists.count(Some(OFFICE_2010), client(8), 10), Ok(6));
    }

    #[test]
    fn a_full_ring_forgets_its_oldest() {
        let mut lists = clients(true);
        for number in 0..10 {
            let count = usize::try_from(number + 1).unwrap();
            assert_eq!(
                lists.count(Some(OFFICE_2010), client(number), 10),
                Ok(count)
            );
        }
        assert_eq!(lists.count(Some(OFFICE_2010), client(10), 10), Ok(10));
        // 0 made room for 10, and 1 makes room for 0.
        assert_eq!(lists.count(Some(OFFICE_2010), client(0), 10), Ok(10));
        assert_eq!(
            lists.lists.iter().map(|list| list.ids.len()).sum::<usize>(),
            10
        );
    }

    #[test]
    fn a_request_makes_the_ring_longer_for_good() {
        let mut lists = clients(true);
        for number in 0..20 {
            lists.count(Some(OFFICE_2010), client(number), 20).unwrap();
        }
        assert_eq!(lists.count(Some(OFFICE_2010), client(99), 10), Ok(20));
    }

    #[test]
    fn beyond_671_nobody_new_is_counted() {
        let mut lists = clients(true);
        for number in 0..671 {
            let count = usize::try_from(number + 1).unwrap();
            assert_eq!(lists.count(Some(WINDOWS), client(number), 2000), Ok(count));
        }
        assert_eq!(lists.count(Some(WINDOWS), client(671), 50), Err(Full));
        assert_eq!(lists.count(Some(WINDOWS), client(5), 50), Ok(671));
        assert_eq!(lists.count(Some(OFFICE_2010), client(671), 10), Ok(1));
    }

    #[test]
    fn an_unknown_application_is_windows() {
        let mut lists = clients(true);
        assert_eq!(lists.count(None, client(1), 50), Ok(1));
        assert_eq!(lists.count(Some(client(4)), client(2), 50), Ok(2));
        assert_eq!(lists.count(Some(WINDOWS), client(3), 50), Ok(3));
    }
}
