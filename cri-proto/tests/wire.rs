//! One wrong field number is silent: every message, field, number and type of the proto files, and every call, stands in
//! `golden/*.txt`, to be reviewed against the published interfaces.
//!
//! After a deliberate change: `UPDATE_GOLDEN=1 cargo test -p cri-proto --test wire`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// One line for each thing that shows on the wire, sorted, so that the order within the file means nothing.
fn table(file: &FileDescriptorProto) -> String {
    let mut lines = BTreeSet::new();
    let package = file.package();
    lines.insert((
        format!("package {package}"),
        0,
        format!("syntax {}", file.syntax()),
    ));
    for message in &file.message_type {
        message_lines(message, package, message.name(), &mut lines);
    }
    for enumeration in &file.enum_type {
        enum_lines(enumeration, enumeration.name(), &mut lines);
    }
    for service in &file.service {
        for method in &service.method {
            let stream = |on: bool| if on { "stream " } else { "" };
            let text = format!(
                "rpc {}({}{}) returns ({}{})",
                method.name(),
                stream(method.client_streaming()),
                short(method.input_type(), package),
                stream(method.server_streaming()),
                short(method.output_type(), package),
            );
            lines.insert((format!("service {}", service.name()), 0, text));
        }
    }
    lines
        .into_iter()
        .map(|(owner, number, text)| match number {
            0 if !owner.starts_with("enum") => format!("{owner}: {text}\n"),
            number => format!("{owner}: {number} {text}\n"),
        })
        .collect()
}

fn message_lines(
    message: &DescriptorProto,
    package: &str,
    name: &str,
    lines: &mut BTreeSet<(String, i32, String)>,
) {
    let owner = format!("message {name}");
    // Maps are messages of two fields behind the scenes; shown as maps, they are not listed again.
    let maps: BTreeMap<&str, &DescriptorProto> = message
        .nested_type
        .iter()
        .filter(|m| m.options.as_ref().is_some_and(|o| o.map_entry()))
        .map(|m| (m.name(), m))
        .collect();
    if message.field.is_empty() {
        lines.insert((owner.clone(), 0, "no fields".into()));
    }
    for field in &message.field {
        let entry = field
            .type_name()
            .rsplit('.')
            .next()
            .and_then(|n| maps.get(n));
        let (label, kind) = match entry {
            Some(entry) => {
                let kinds: Vec<String> = entry.field.iter().map(|f| kind_of(f, package)).collect();
                ("", format!("map<{}>", kinds.join(", ")))
            }
            None if field.label() == Label::Repeated => ("repeated ", kind_of(field, package)),
            None => ("", kind_of(field, package)),
        };
        let optional = if field.proto3_optional() {
            "optional "
        } else {
            ""
        };
        let oneof = match field.oneof_index.filter(|_| !field.proto3_optional()) {
            Some(index) => {
                let index = usize::try_from(index).expect("an index");
                format!("oneof {} ", message.oneof_decl[index].name())
            }
            None => String::new(),
        };
        lines.insert((
            owner.clone(),
            field.number(),
            format!("{oneof}{optional}{label}{kind} {}", field.name()),
        ));
    }
    for range in &message.reserved_range {
        let text = format!("reserved {}..{}", range.start(), range.end());
        lines.insert((owner.clone(), range.start(), text));
    }
    for reserved in &message.reserved_name {
        lines.insert((owner.clone(), 0, format!("reserved {reserved}")));
    }
    for nested in &message.nested_type {
        if !maps.contains_key(nested.name()) {
            message_lines(nested, package, &format!("{name}.{}", nested.name()), lines);
        }
    }
    for enumeration in &message.enum_type {
        enum_lines(
            enumeration,
            &format!("{name}.{}", enumeration.name()),
            lines,
        );
    }
}

fn kind_of(field: &prost_types::FieldDescriptorProto, package: &str) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name(), package).into(),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    }
}

fn enum_lines(
    enumeration: &EnumDescriptorProto,
    name: &str,
    lines: &mut BTreeSet<(String, i32, String)>,
) {
    for value in &enumeration.value {
        lines.insert((format!("enum {name}"), value.number(), value.name().into()));
    }
}

fn short<'a>(full: &'a str, package: &str) -> &'a str {
    full.strip_prefix('.')
        .and_then(|name| name.strip_prefix(package))
        .and_then(|name| name.strip_prefix('.'))
        .unwrap_or(full)
}

/// Compares the table of `file` in `proto/` with `golden`, which has more than `least` lines.
fn compare(file: &str, golden: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Another file can be put in its place, to print the table of a published one and compare.
    let proto = std::env::var("CRI_PROTO")
        .map_or_else(|_| root.join("proto").join(file), std::path::PathBuf::from);
    let include = proto.parent().expect("a directory");
    let set = protox::compile([&proto], [include]).expect("it compiles");
    let made = table(set.file.last().expect("a file"));
    let golden = root.join("tests/golden").join(golden);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &made).expect("write the table");
    }
    let want = std::fs::read_to_string(&golden).expect("read the table");
    let made: BTreeSet<&str> = made.lines().collect();
    let want: BTreeSet<&str> = want.lines().collect();
    let lost: Vec<_> = want.difference(&made).collect();
    let new: Vec<_> = made.difference(&want).collect();
    assert!(
        lost.is_empty() && new.is_empty(),
        "gone: {lost:#?}\nnew: {new:#?}"
    );
    assert!(want.len() > least, "{} lines only", want.len());
}

#[test]
fn the_wire_format_is_the_published_one() {
    compare("runtime/v1/api.proto", "wire.txt", 500);
}

#[test]
fn that_of_storage_drivers_is_too() {
    compare("csi/v1/csi.proto", "csi.txt", 70);
}

#[test]
fn and_that_of_plugins() {
    compare(
        "pluginregistration/v1/api.proto",
        "pluginregistration.txt",
        8,
    );
}

#[test]
fn that_of_device_plugins() {
    compare("deviceplugin/v1beta1/api.proto", "deviceplugin.txt", 30);
}

#[test]
fn and_that_of_what_pods_were_given() {
    compare("podresources/v1/api.proto", "podresources.txt", 30);
    compare(
        "podresources/v1alpha1/api.proto",
        "podresources_alpha.txt",
        8,
    );
}
