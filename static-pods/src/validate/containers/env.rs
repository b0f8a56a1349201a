//! Environment variables: names, and where their values come from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, PodSpec};

use super::super::{Errors, fields, names, paths};

pub(super) fn check(path: &str, variables: &[EnvVar], errors: &mut Errors) {
    for (i, variable) in variables.iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        variable_name(&path, "name", &variable.name, errors);
        if let Some(from) = &variable.value_from {
            let has_value = variable.value.as_deref().is_some_and(|v| !v.is_empty());
            value_from(&format!("{path}.valueFrom"), from, has_value, errors);
        }
    }
}

fn variable_name(path: &str, field: &str, name: &str, errors: &mut Errors) {
    let rule = |name: &str| {
        names::variable(name)
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    errors.named(&format!("{path}.{field}"), name, rule);
}

fn value_from(path: &str, from: &EnvVarSource, has_value: bool, errors: &mut Errors) {
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        fields::of_pod(
            &format!("{path}.fieldRef"),
            field,
            fields::OF_VARIABLES,
            errors,
        );
    }
    if let Some(amount) = &from.resource_field_ref {
        sources += 1;
        fields::of_container(&format!("{path}.resourceFieldRef"), amount, false, errors);
    }
    if let Some(of) = &from.config_map_key_ref {
        sources += 1;
        object_key(
            &format!("{path}.configMapKeyRef"),
            &of.name,
            &of.key,
            errors,
        );
    }
    if let Some(of) = &from.secret_key_ref {
        sources += 1;
        object_key(&format!("{path}.secretKeyRef"), &of.name, &of.key, errors);
    }
    if let Some(of) = &from.file_key_ref {
        sources += 1;
        file_key(&format!("{path}.fileKeyRef"), of, errors);
    }
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.invalid(path, "", detail);
}

/// A key of a secret or config map.
fn object_key(path: &str, name: &str, key: &str, errors: &mut Errors) {
    errors.all(&format!("{path}.name"), name, names::subdomain(name));
    errors.named(&format!("{path}.key"), key, names::config_key);
}

/// A variable of a file in a volume (KEP-3721).
fn file_key(path: &str, of: &FileKeySelector, errors: &mut Errors) {
    variable_name(path, "key", &of.key, errors);
    errors.named(&format!("{path}.volumeName"), &of.volume_name, names::label);
    match of.path.as_str() {
        "" => errors.required(format!("{path}.path"), ""),
        file => paths::no_backsteps(&format!("{path}.path"), file, errors),
    }
}

/// Files with variables stand in volumes of the kind that a container before this one can write.
pub(super) fn file_volumes(spec: &PodSpec, errors: &mut Errors) {
    let volumes: BTreeMap<&str, bool> = (spec.volumes.iter().flatten())
        .map(|v| (v.name.as_str(), v.empty_dir.is_some()))
        .collect();
    let init = spec.init_containers.iter().flatten().enumerate();
    let regular = spec.containers.iter().enumerate();
    let late = spec.ephemeral_containers.iter().flatten().enumerate();
    let env = init
        .map(|(i, c)| (format!("spec.initContainers[{i}]"), &c.env))
        .chain(regular.map(|(i, c)| (format!("spec.containers[{i}]"), &c.env)))
        .chain(late.map(|(i, c)| (format!("spec.ephemeralContainers[{i}]"), &c.env)));
    for (path, env) in env {
        for (i, variable) in env.iter().flatten().enumerate() {
            let from = variable.value_from.as_ref();
            let Some(file) = from.and_then(|f| f.file_key_ref.as_ref()) else {
                continue;
            };
            let path = format!("{path}.env[{i}].valueFrom.fileKeyRef.volumeName");
            let name = file.volume_name.as_str();
            match volumes.get(name) {
                Some(true) => {}
                Some(false) => {
                    errors.invalid(path, name, "referenced volume must be of type emptyDir");
                }
                None => errors.not_found(path, name),
            }
        }
    }
}

pub(super) fn check_from(list: &str, sources: &[EnvFromSource], errors: &mut Errors) {
    for (i, source) in sources.iter().enumerate() {
        let path = format!("{list}[{i}]");
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if !prefix.is_empty() {
            variable_name(&path, "prefix", prefix, errors);
        }
        let objects = [
            (
                "configMapRef",
                source.config_map_ref.as_ref().map(|r| &r.name),
            ),
            ("secretRef", source.secret_ref.as_ref().map(|r| &r.name)),
        ];
        for (field, name) in objects {
            if let Some(name) = name {
                errors.named(&format!("{path}.{field}.name"), name, names::subdomain);
            }
        }
        let detail = match objects.iter().filter(|(_, name)| name.is_some()).count() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.pointing(&path, |errors| errors.invalid(list, "", detail));
    }
}
