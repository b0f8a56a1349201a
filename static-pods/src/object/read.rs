//! One document: what it holds, or what is wrong with it. No message repeats a value of a Secret.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Content, ObjectKey, ObjectKind, Values};
use crate::manifest::Problem;
use crate::tree::{DecodeError, Entry, Node, PUT_IN_QUOTES, Position, UnknownField, Value};
use crate::validate::{self, FieldError, REDACTED};

/// What a Secret is that does not say (`type`, v1 API default).
const OPAQUE: &str = "Opaque";
/// Base64 as Go's standard encoding reads it: with padding, whatever its last bits are.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// What there is around the values.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "the fields say which names there may be")]
struct ConfigMap {
    api_version: Option<IgnoredAny>,
    kind: Option<IgnoredAny>,
    metadata: Option<ObjectMeta>,
    data: Option<IgnoredAny>,
    binary_data: Option<IgnoredAny>,
    immutable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "the fields say which names there may be")]
struct Secret {
    api_version: Option<IgnoredAny>,
    kind: Option<IgnoredAny>,
    metadata: Option<ObjectMeta>,
    data: Option<IgnoredAny>,
    string_data: Option<IgnoredAny>,
    immutable: Option<bool>,
    r#type: Option<String>,
}

/// What a document gives.
pub(crate) struct Found {
    /// Which object it is; none without a name.
    pub(crate) key: Option<ObjectKey>,
    /// What it holds, as far as `problems` are none.
    pub(crate) content: Content,
    pub(crate) problems: Vec<(Position, Problem)>,
    pub(crate) unknown: Vec<UnknownField>,
}

/// Reads the document `node`, which says that it is of `kind`.
pub(crate) fn read(node: &Node, kind: ObjectKind) -> Found {
    let mut found = Found {
        key: None,
        content: Content::default(),
        problems: Vec::new(),
        unknown: Vec::new(),
    };
    let decoded = match kind {
        ObjectKind::ConfigMap => node.decode::<ConfigMap>().map(|decoded| {
            let map = decoded.value;
            (map.metadata, map.immutable, None, decoded.unknown)
        }),
        ObjectKind::Secret => node.decode::<Secret>().map(|decoded| {
            let secret = decoded.value;
            let secret_type = secret.r#type.filter(|name| !name.is_empty());
            let secret_type = Some(secret_type.unwrap_or_else(|| OPAQUE.to_owned()));
            (
                secret.metadata,
                secret.immutable,
                secret_type,
                decoded.unknown,
            )
        }),
    };
    let (meta, immutable, secret_type, unknown) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            found.problems.push((error.at, Problem::Decode(error)));
            return found;
        }
    };
    found.unknown = unknown;
    let mut meta = meta.unwrap_or_default();
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        let at = node.nearest("metadata.name");
        found.problems.push((at, Problem::Nameless(kind)));
        return found;
    }
    if meta.namespace.as_deref().unwrap_or_default().is_empty() {
        meta.namespace = Some("default".to_owned());
    }
    found.key = Some(ObjectKey {
        kind,
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        name: meta.name.as_deref().unwrap_or_default().into(),
    });
    let mut values = |field: &'static str, how: fn(&str) -> Result<Arc<[u8]>, String>| {
        let hidden = kind == ObjectKind::Secret;
        match read_values(node, field, hidden, how) {
            Ok(values) => values,
            Err(problems) => {
                found.problems.extend(problems);
                Values::new()
            }
        }
    };
    let (data, binary) = match kind {
        ObjectKind::ConfigMap => (values("data", as_it_is), values("binaryData", from_base64)),
        ObjectKind::Secret => {
            let mut data = values("data", from_base64);
            data.extend(values("stringData", as_it_is));
            (data, Values::new())
        }
    };
    found.content = Content {
        data,
        binary,
        secret_type: secret_type.map(Into::into),
        immutable: immutable.unwrap_or(false),
    };
    if found.problems.is_empty() {
        for error in validate::validate_object(kind, &meta, &found.content) {
            let at = node.nearest(error.at.as_ref().unwrap_or(&error.path));
            found.problems.push((at, Problem::Field(error)));
        }
    }
    found
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "one form for both ways to read a value"
)]
fn as_it_is(text: &str) -> Result<Arc<[u8]>, String> {
    Ok(text.as_bytes().into())
}

fn from_base64(text: &str) -> Result<Arc<[u8]>, String> {
    use base64::DecodeError;
    let lines = text.contains(['\r', '\n']);
    let joined = lines.then(|| text.replace(['\r', '\n'], ""));
    let text = joined.as_deref().unwrap_or(text);
    let decoded = BASE64.decode(text).map(Into::into);
    decoded.map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len(),
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// The map `field` of a document. What is text is read by `how`; `hidden` values stand in no message.
fn read_values(
    node: &Node,
    field: &str,
    hidden: bool,
    how: fn(&str) -> Result<Arc<[u8]>, String>,
) -> Result<Values, Vec<(Position, Problem)>> {
    let Some(map) = node.get(field).filter(|map| map.value != Value::Null) else {
        return Ok(Values::new());
    };
    let Some(entries) = map.as_mapping() else {
        let message = format!("must be a mapping, but is {}", map.kind());
        return Err(vec![mistyped(field.to_owned(), map.at, message)]);
    };
    let (mut values, mut problems) = (Values::new(), Vec::new());
    for entry in entries.iter() {
        let path = format!("{field}[{}]", entry.key);
        match read_value(entry, hidden) {
            Err(message) => problems.push(mistyped(path, entry.value.at, message)),
            Ok(text) => match how(text) {
                Ok(value) => {
                    values.insert(entry.key.as_str().into(), value);
                }
                Err(why) => {
                    let body = format!("Invalid value: {REDACTED}: {why}");
                    let error = FieldError {
                        path,
                        body,
                        at: None,
                    };
                    problems.push((entry.value.at, Problem::Field(error)));
                }
            },
        }
    }
    match problems.is_empty() {
        true => Ok(values),
        false => Err(problems),
    }
}

fn read_value(entry: &Entry, hidden: bool) -> Result<&str, String> {
    let node = &entry.value;
    match &node.value {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text),
        Value::Sequence(_) | Value::Mapping(_) => {
            Err(format!("must be text, but is {}", node.kind()))
        }
        _ if hidden => Err(format!(
            "must be text, but is {}; {PUT_IN_QUOTES}",
            node.kind()
        )),
        _ => Err(format!(
            "must be text, but {} is {}; {PUT_IN_QUOTES}",
            node.to_json(),
            node.kind()
        )),
    }
}

fn mistyped(path: String, at: Position, message: String) -> (Position, Problem) {
    (at, Problem::Decode(DecodeError { path, at, message }))
}
