//! Rules for paths inside a volume.

use super::Errors;

/// No step is `..`.
pub(super) fn no_backsteps(path: &str, value: &str, errors: &mut Errors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

/// Relative, and no step is `..`.
pub(super) fn descending(path: &str, value: &str, errors: &mut Errors) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(path, value, errors);
}

/// Descending, and no name that begins with `..`: those are the kubelet's own.
pub(super) fn unreserved(path: &str, value: &str, errors: &mut Errors) {
    descending(path, value, errors);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.invalid(path, value, "must not start with '..'");
    }
}

/// Most a file's mode may be: all permissions, no special bits.
const MODES: std::ops::RangeInclusive<i32> = 0..=0o777;

pub(super) fn mode(path: &str, mode: Option<i32>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !MODES.contains(m)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(path, mode, detail);
    }
}
