//! KDL text -> Document with spans; the formatter.
