//! Models and data sets: manifests, sources, checksums, the user cache.
