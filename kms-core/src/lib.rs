//! KMS protocol library.
