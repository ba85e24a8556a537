//! The database itself: redb, its tables and its errors.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Builder, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, TableHandle as _,
};

use super::SCHEMA;
use crate::policy::rows::{Changes, Stored, Table};

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Holds one number, the version of the schema; it never changes its own layout.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SCHEMA_KEY: &str = "schema";

/// By name, what is kept of each log.
const LOGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("logs");

/// By name, what a log's watch knows. Absent in files of before there were any.
const WATCHES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("watches");

/// Memory for pages. The state is a few hundred KiB, and read once; what is written
/// beyond this leaves for the disk before the transaction ends.
const CACHE: usize = 512 << 10;

/// Bytes of the number that a finished file begins with.
const MAGIC: u64 = 9;

pub(super) fn rows(table: Table) -> Rows {
    TableDefinition::new(match table {
        Table::Window => "window",
        Table::Outbox => "outbox",
        Table::DeadLetters => "dead_letters",
        Table::Known => "known",
        Table::Rest => "rest",
    })
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Another process has it.
    #[error("another process has it open")]
    InUse,
    /// A later version wrote it.
    #[error("its layout {0} is newer than {SCHEMA}")]
    Newer(u64),
    /// Its directory does not exist, or it is one.
    #[error("{0}")]
    NoPlace(io::Error),
    /// What is in the file is not the state.
    #[error("{0}")]
    Unreadable(String),
    /// The disk is full, read-only, or broken.
    #[error("{0}")]
    Unwritable(String),
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        use io::ErrorKind::{InvalidData, IsADirectory, NotFound, UnexpectedEof};
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Io(error) => match error.kind() {
                InvalidData | UnexpectedEof => Self::Unreadable(error.to_string()),
                NotFound | IsADirectory => Self::NoPlace(error),
                _ => Self::Unwritable(error.to_string()),
            },
            redb::Error::PreviousIo
            | redb::Error::DatabaseClosed
            | redb::Error::LockPoisoned(_) => Self::Unwritable(error.to_string()),
            error => Self::Unreadable(error.to_string()),
        }
    }
}

macro_rules! fault_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}
fault_from!(
    DatabaseError,
    StorageError,
    TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CompactionError
);

/// All that is stored.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) policy: Stored,
    pub(super) logs: Vec<(String, Vec<u8>)>,
    pub(super) watches: Vec<(String, Vec<u8>)>,
}

/// An open database with the schema of this version.
pub(super) struct Database {
    path: PathBuf,
    inner: redb::Database,
}

impl Database {
    /// Opens or makes it. With `reset` it is emptied first, whatever it holds.
    pub(super) fn open(path: &Path, reset: bool) -> Result<Self, Fault> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE);
        let create = || builder.create(path).map_err(Fault::from);
        let mut inner = create();
        if reset {
            match inner {
                // Only the one who has it open may remove it.
                Ok(_) | Err(Fault::Unreadable(_)) => {}
                Err(fault) => return Err(fault),
            }
            std::fs::remove_file(path).map_err(|error| Fault::Unwritable(error.to_string()))?;
            inner = create();
        } else if matches!(inner, Err(Fault::Unreadable(_)))
            && empty_unfinished(path).is_ok_and(|emptied| emptied)
        {
            inner = create();
        }
        let mut database = Self {
            path: path.to_owned(),
            inner: inner?,
        };
        // Its pages have checksums, its list of free pages has none: a wrong one
        // would be noticed by overwriting what is in use.
        database.inner.check_integrity()?;
        database.check_schema()?;
        Ok(database)
    }

    /// Reads a database that cannot be written.
    pub(super) fn look(path: &Path) -> Result<Contents, Fault> {
        let database = Builder::new().set_cache_size(CACHE).open_read_only(path)?;
        let transaction = database.begin_read()?;
        match schema(&transaction)? {
            Some(SCHEMA) => contents(&transaction),
            _ => Err(Fault::Unreadable("it has another layout".into())),
        }
    }

    fn check_schema(&self) -> Result<(), Fault> {
        let transaction = self.inner.begin_read()?;
        match schema(&transaction)? {
            Some(SCHEMA) => Ok(()),
            Some(found) if found > SCHEMA => Err(Fault::Newer(found)),
            None if transaction.list_tables()?.next().is_none() => {
                let transaction = self.inner.begin_write()?;
                transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
                transaction.open_table(LOGS)?;
                for table in Table::ALL {
                    transaction.open_table(rows(table))?;
                }
                Ok(transaction.commit()?)
            }
            _ => Err(Fault::Unreadable("it is another program's".into())),
        }
    }

    pub(super) fn contents(&self) -> Result<Contents, Fault> {
        contents(&self.inner.begin_read()?)
    }

    /// Writes rows and logs in one transaction that is on the disk at the end. Each
    /// row is let go once its page has it: a full outbox is not there twice.
    pub(super) fn write(
        &self,
        changes: Changes,
        logs: &HashMap<Arc<str>, Vec<u8>>,
        watches: &HashMap<Arc<str>, Vec<u8>>,
    ) -> Result<(), Fault> {
        let transaction = self.inner.begin_write()?;
        let Changes {
            whole,
            rows: mut changed,
        } = changes;
        changed.sort_by_key(|row| row.table);
        let mut changed = changed.into_iter().peekable();
        for table in Table::ALL {
            if !whole && changed.peek().is_none_or(|row| row.table != table) {
                continue;
            }
            if whole {
                transaction.delete_table(rows(table))?;
            }
            let mut stored = transaction.open_table(rows(table))?;
            while let Some(row) = changed.next_if(|row| row.table == table) {
                match &row.value {
                    Some(value) => stored.insert(&*row.key, &**value)?,
                    None => stored.remove(&*row.key)?,
                };
            }
        }
        for (table, changed) in [(LOGS, logs), (WATCHES, watches)] {
            let mut stored = transaction.open_table(table)?;
            for (log, state) in changed {
                stored.insert(&**log, &**state)?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Size of the file in bytes; 0 if the file system does not tell.
    pub(super) fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Makes the file as small as its contents.
    pub(super) fn compact(&mut self) -> Result<(), Fault> {
        self.inner.compact()?;
        Ok(())
    }

    /// Forgets logs.
    pub(super) fn forget(&self, logs: &[String]) -> Result<(), Fault> {
        if logs.is_empty() {
            return Ok(());
        }
        let transaction = self.inner.begin_write()?;
        for table in [LOGS, WATCHES] {
            let mut stored = transaction.open_table(table)?;
            for log in logs {
                stored.remove(&**log)?;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// Empties a file whose making was cut off, by a full disk or a kill, and says
/// whether it was one. The library writes its magic number last, so nothing of
/// anybody's is in it yet.
fn empty_unfinished(path: &Path) -> io::Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut magic = Vec::new();
    (&file).take(MAGIC).read_to_end(&mut magic)?;
    let is_unfinished = magic.iter().all(|byte| *byte == 0);
    if is_unfinished {
        file.set_len(0)?;
    }
    Ok(is_unfinished)
}

/// The schema's version; none if there is no such table.
fn schema(transaction: &ReadTransaction) -> Result<Option<u64>, Fault> {
    if !has_table(transaction, META.name())? {
        return Ok(None);
    }
    let version = transaction.open_table(META)?.get(SCHEMA_KEY)?;
    Ok(version.map(|version| version.value()))
}

fn has_table(transaction: &ReadTransaction, name: &str) -> Result<bool, Fault> {
    Ok(transaction.list_tables()?.any(|table| table.name() == name))
}

fn contents(transaction: &ReadTransaction) -> Result<Contents, Fault> {
    let mut contents = Contents::default();
    for table in Table::ALL {
        for row in transaction.open_table(rows(table))?.iter()? {
            let (key, value) = row?;
            let row = (table, key.value().to_vec(), value.value().to_vec());
            contents.policy.push(row);
        }
    }
    let mut tables = vec![(LOGS, &mut contents.logs)];
    if has_table(transaction, WATCHES.name())? {
        tables.push((WATCHES, &mut contents.watches));
    }
    for (table, rows) in tables {
        for row in transaction.open_table(table)?.iter()? {
            let (name, state) = row?;
            rows.push((name.value().to_owned(), state.value().to_vec()));
        }
    }
    Ok(contents)
}
