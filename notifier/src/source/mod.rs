//! Edges that bring bytes in: files that grow, standard input, a child process.

/// One line as it stands in its file, without its LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// Offset in bytes of the line's first byte in its file or stream.
    pub offset: u64,
    /// The bytes, at most the configured bound.
    pub bytes: &'a [u8],
    /// Whether the line was longer than the bound and lost its end.
    pub cut: bool,
}

/// How a followed log changed under its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rotation {
    /// Another file has the name now (rename or delete, and create).
    Rename,
    /// The same file starts over (copytruncate).
    Truncate,
}
