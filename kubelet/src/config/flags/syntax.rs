//! From the text of a flag to its value.

use serde_json::{Map, Value, json};

use super::Syntax;
use crate::config::durations::GoDuration;
use crate::config::labels;
use static_pods::quantity::Quantity as Amount;

impl Syntax {
    /// The word that stands for the value in the help text.
    pub(super) fn placeholder(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Int32 | Self::Int64 | Self::Uint32 => "int",
            Self::Text => "string",
            Self::Texts => "strings",
            Self::Duration => "duration",
            Self::Ip => "ip",
            Self::Quantity => "quantity",
            Self::Pairs | Self::PairsWhole | Self::Labels => "k=v,...",
            Self::PairsBelow => "k<v,...",
            Self::PairsBool => "k=bool,...",
            Self::Headers => "k:v,...",
            Self::Taints => "k=v:effect,...",
            Self::ReservedMemory => "node:type=quantity,...",
            Self::VModule => "pattern=N,...",
            Self::Version => "[=raw]",
        }
    }
}

/// A boolean as Go's `strconv.ParseBool` reads it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number as Go's `strconv.ParseInt` reads it with base 0: `0x`, `0o`, `0b`, a leading 0 for octal, and
/// underscores between digits of such a number.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = if let Some(body) = lower.strip_prefix("0x") {
        (16, body)
    } else if let Some(body) = lower.strip_prefix("0o") {
        (8, body)
    } else if let Some(body) = lower.strip_prefix("0b") {
        (2, body)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let body = if radix == 10 {
        body.to_owned()
    } else {
        body.replace('_', "")
    };
    if !body.chars().next()?.is_digit(radix) {
        return None;
    }
    let magnitude = i128::from_str_radix(&body, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// The value of a flag whose text is `text`, joined to that of earlier occurrences.
///
/// # Errors
/// With what is wrong with the text.
pub(super) fn read(syntax: Syntax, text: &str, before: Option<Value>) -> Result<Value, String> {
    match syntax {
        Syntax::Bool => boolean(text)
            .map(Value::Bool)
            .ok_or_else(|| "not true or false".to_owned()),
        Syntax::Int32 => within(text, i64::from(i32::MIN), i64::from(i32::MAX)),
        Syntax::Int64 => within(text, i64::MIN, i64::MAX),
        Syntax::Uint32 => within(text, 0, i64::from(u32::MAX)),
        Syntax::Text => Ok(Value::from(text)),
        Syntax::Texts => Ok(texts(text, before)),
        Syntax::Duration => GoDuration::parse(text)
            .map(|_| Value::from(text))
            .map_err(|e| e.to_string()),
        Syntax::Ip => {
            if text.is_empty() || text.parse::<std::net::IpAddr>().is_ok() {
                Ok(Value::from(text))
            } else {
                Err(format!("{text:?} is not a valid IP address"))
            }
        }
        Syntax::Quantity => Amount::parse(text)
            .map(|_| Value::from(text))
            .map_err(|e| e.to_string()),
        Syntax::Pairs => pairs(text, Some(','), '=', before),
        Syntax::PairsWhole => pairs(text, None, '=', before),
        Syntax::PairsBelow => pairs(text, Some(','), '<', before),
        Syntax::PairsBool => booleans(text, before),
        Syntax::Labels => {
            let mut map = object(before);
            for part in text.split(',').filter(|part| !part.is_empty()) {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                map.insert(key.trim().to_owned(), Value::from(value.trim()));
            }
            Ok(Value::Object(map))
        }
        Syntax::Headers => headers(text, before),
        Syntax::Taints => taints(text),
        Syntax::ReservedMemory => reserved_memory(text, before),
        Syntax::VModule => vmodule(text),
        Syntax::Version => match (text, boolean(text)) {
            ("raw", _) => Ok(Value::from("raw")),
            (_, Some(value)) => Ok(Value::from(if value { "true" } else { "false" })),
            _ => Err("write --version or --version=raw".to_owned()),
        },
    }
}

fn within(text: &str, least: i64, most: i64) -> Result<Value, String> {
    match integer(text) {
        Some(value) if (least..=most).contains(&value) => Ok(Value::from(value)),
        Some(_) => Err(format!("value out of range, write {least} to {most}")),
        None => Err("not a whole number".to_owned()),
    }
}

fn object(before: Option<Value>) -> Map<String, Value> {
    match before {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn list(before: Option<Value>) -> Vec<Value> {
    match before {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// Items with commas between; an item in double quotes may hold commas, as in a CSV file.
fn texts(text: &str, before: Option<Value>) -> Value {
    let mut items = list(before);
    if !text.is_empty() {
        let mut item = String::new();
        let mut quoted = false;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    item.push('"');
                }
                '"' if quoted || item.is_empty() => quoted = !quoted,
                ',' if !quoted => items.push(Value::from(std::mem::take(&mut item))),
                c => item.push(c),
            }
        }
        items.push(Value::from(item));
    }
    Value::Array(items)
}

fn split(text: &str, between: Option<char>) -> impl Iterator<Item = &str> {
    let whole = between.is_none();
    text.split(move |c| Some(c) == between)
        .filter(move |part| whole || !part.is_empty())
}

fn pairs(
    text: &str,
    between: Option<char>,
    sign: char,
    before: Option<Value>,
) -> Result<Value, String> {
    let mut map = object(before);
    for part in split(text, between) {
        let (key, value) = part
            .split_once(sign)
            .ok_or_else(|| format!("malformed pair, expect string{sign}string"))?;
        map.insert(key.trim().to_owned(), Value::from(value.trim()));
    }
    Ok(Value::Object(map))
}

fn booleans(text: &str, before: Option<Value>) -> Result<Value, String> {
    let mut map = object(before);
    for part in split(text, Some(',')) {
        let (key, value) = part
            .split_once('=')
            .ok_or("malformed pair, expect string=bool")?;
        let (key, value) = (key.trim(), value.trim());
        let value = boolean(value)
            .ok_or_else(|| format!("invalid value of {key}: {value}, write true or false"))?;
        map.insert(key.to_owned(), Value::Bool(value));
    }
    Ok(Value::Object(map))
}

fn headers(text: &str, before: Option<Value>) -> Result<Value, String> {
    let mut map = object(before);
    for part in split(text, Some(',')) {
        let (key, value) = part
            .split_once(':')
            .ok_or("malformed pair, expect string:string")?;
        let values = map.entry(key.trim()).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(Value::from(value.trim()));
        }
    }
    Ok(Value::Object(map))
}

fn taints(text: &str) -> Result<Value, String> {
    let mut taints: Vec<Value> = Vec::new();
    for spec in split(text, Some(',')) {
        let invalid = |why: &str| format!("invalid taint spec: {spec}, {why}");
        let (name, effect) = spec
            .split_once(':')
            .ok_or_else(|| invalid("write key=value:Effect"))?;
        let (key, value) = name.split_once('=').unwrap_or((name, ""));
        labels::check_taint(key, value, effect).map_err(|why| invalid(&why))?;
        if taints
            .iter()
            .any(|taint| taint["key"] == key && taint["effect"] == effect)
        {
            return Err(format!(
                "duplicated taints with the same key and effect: {spec}"
            ));
        }
        taints.push(json!({ "key": key, "value": value, "effect": effect }));
    }
    Ok(Value::Array(taints))
}

fn reserved_memory(text: &str, before: Option<Value>) -> Result<Value, String> {
    let mut nodes = list(before);
    for reservation in split(text, Some(';')) {
        let format = || {
            format!(
                "the reserved memory has incorrect format, expected numaNodeID:type=quantity[,type=quantity...], got {reservation}"
            )
        };
        let (node, limits) = reservation.split_once(':').ok_or_else(format)?;
        let node: i32 = node.parse().map_err(|_| {
            format!("failed to convert the NUMA node ID, expected integer, got {node}")
        })?;
        let mut map = Map::new();
        for limit in limits.split(',') {
            let (kind, amount) = limit.split_once('=').ok_or_else(|| {
                format!(
                    "the reserved limit has incorrect value, expected type=quantity, got {limit}"
                )
            })?;
            if kind != "memory" && !kind.starts_with("hugepages-") {
                return Err(format!(
                    "memory type conversion error, unknown type: {kind:?}"
                ));
            }
            Amount::parse(amount).map_err(|e| e.to_string())?;
            map.insert(kind.to_owned(), Value::from(amount));
        }
        nodes.push(json!({ "numaNode": node, "limits": map }));
    }
    Ok(Value::Array(nodes))
}

fn vmodule(text: &str) -> Result<Value, String> {
    let mut items = Vec::new();
    for part in split(text, Some(',')) {
        let (pattern, level) = part
            .split_once('=')
            .filter(|(pattern, _)| !pattern.is_empty())
            .ok_or_else(|| format!("{part:?} is not of the form pattern=N"))?;
        let level: u32 = level
            .parse()
            .map_err(|_| format!("{level:?} is not a level from 0 up"))?;
        items.push(json!({ "filePattern": pattern, "verbosity": level }));
    }
    Ok(Value::Array(items))
}
