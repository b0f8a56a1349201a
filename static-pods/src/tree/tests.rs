use super::*;
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;

fn one(text: &str) -> Document {
    let mut all = parse(text.as_bytes());
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0).unwrap_or_else(|e| panic!("{}: {e}", e.at))
}

fn error(text: &str) -> SyntaxError {
    parse(text.as_bytes()).pop().unwrap().unwrap_err()
}

fn json(text: &str) -> String {
    one(text).root.to_json().to_string()
}

#[test]
fn yaml_is_read_as_upstream_reads_it() {
    for (text, want) in [
        (
            "a: 0644\nb: yes\nc: 1_000\n",
            r#"{"a":420,"b":true,"c":1000}"#,
        ),
        (
            "1: a\n1.5: b\nyes: c\n2001-01-01: d\n",
            r#"{"1":"a","1.5":"b","2001-01-01":"d","true":"c"}"#,
        ),
        ("a: 1\n<<: {a: 2, b: 3}\n", r#"{"a":2,"b":3}"#),
        ("<<: {a: 2, b: 3}\na: 1\n", r#"{"a":1,"b":3}"#),
        ("<<: [{a: 1}, {a: 2, c: 3}]\n", r#"{"a":1,"c":3}"#),
        ("\"<<\": 1\n", r#"{"<<":1}"#),
        (
            "a: &x {q: 1}\nb: *x\nc:\n  <<: *x\n  r: 2\n",
            r#"{"a":{"q":1},"b":{"q":1},"c":{"q":1,"r":2}}"#,
        ),
        (
            "a: !!str 80\nb: !!int \"7\"\nc: !!float 3\n",
            r#"{"a":"80","b":7,"c":3}"#,
        ),
        (
            "a: |\n  x\n  y\nb: >-\n  x\n  y\n",
            r#"{"a":"x\ny\n","b":"x y"}"#,
        ),
        ("a:\tb\nc: \"x:\ty\"\n", r#"{"a":"b","c":"x:\ty"}"#),
        ("a: b\r\nc: d\r\n", r#"{"a":"b","c":"d"}"#),
        ("\u{feff}a: b\n", r#"{"a":"b"}"#),
        ("&k a: *k\n", r#"{"a":"a"}"#),
    ] {
        assert_eq!(json(text), want, "{text}");
    }
}

#[test]
fn what_starts_with_a_brace_is_json() {
    assert_eq!(
        json("{\"a\": [1, 1.50, -2e3, \"\\u00e9\\ud83d\\ude00\\/\\ud83d\"],\n\t\"b\": null}"),
        "{\"a\":[1,1.5,-2000.0,\"é😀/\u{fffd}\"],\"b\":null}"
    );
    for (text, at) in [
        ("{a: b}", "1:2"),
        ("{\"a\": 1,}", "1:9"),
        ("{\"a\": 1}\nx", "2:1"),
        ("{\"a\": 01}", "1:7"),
        ("{\"a\": tru}", "1:7"),
        ("{\"a\": \"x\ny\"}", "1:9"),
        ("{\"a\": \"\\x\"}", "1:9"),
        ("{\"a\": [1", "1:9"),
        ("{", "1:2"),
    ] {
        assert_eq!(error(text).at.to_string(), at, "{text}: {}", error(text));
    }
}

#[test]
fn positions_are_those_of_the_file() {
    let text = "# c\n---\nspec:\n  list:\n  - name: x\n    é: [1, two]\n---\n\nb: 1\n";
    let documents: Vec<_> = parse(text.as_bytes())
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(documents.len(), 2);
    let at = |path| documents[0].root.at_path(path).map(|p| p.to_string());
    assert_eq!(at("spec").as_deref(), Some("4:3"));
    assert_eq!(at("spec.list[0].name").as_deref(), Some("5:11"));
    assert_eq!(at("spec.list[0].é[1]").as_deref(), Some("6:12"));
    assert_eq!(at("spec.list[1]"), None);
    assert_eq!(
        documents[0].root.nearest("spec.list[0].image").to_string(),
        "5:5"
    );
    assert_eq!(
        documents[0].root.nearest("spec.gone.deeper").to_string(),
        "3:1"
    );
    assert_eq!(
        documents[1]
            .root
            .at_path("b")
            .map(|p| p.to_string())
            .as_deref(),
        Some("9:4")
    );
}

#[test]
fn paths_take_keys_with_dots() {
    let document = one("metadata:\n  labels:\n    app.io/name: x\n");
    assert_eq!(
        document.root.nearest("metadata.labels[app.io/name]").line,
        3
    );
}

#[test]
fn a_syntax_error_ends_at_its_document() {
    let all = parse(b"a: 1\n---\nb: [\n---\nc: 3\n");
    assert!(all[0].is_ok() && all[2].is_ok());
    let error = all[1].as_ref().unwrap_err();
    assert!((3..=4).contains(&error.at.line), "{}", error.at);
}

#[test]
fn keys_written_twice_are_told() {
    let document = one("a:\n- x: 1\n  z: 2\n  x: 3\n");
    assert_eq!(
        document.root.to_json().to_string(),
        r#"{"a":[{"x":3,"z":2}]}"#
    );
    let twice = &document.duplicates[0];
    assert_eq!(twice.path, "a[0].x");
    assert_eq!((twice.first.line, twice.second.line), (2, 4));
    let document = one("{\"a\": {\"b\": 1, \"b\": 2}}");
    assert_eq!(document.duplicates[0].path, "a.b");
    // Past the size at which a mapping gets an index.
    let many: String = (0..40).map(|i| format!("k{i}: 1\n")).collect();
    let document = one(&format!("{many}k3: 2\nk39: 2\n"));
    assert_eq!(document.duplicates.len(), 2);
    assert_eq!(document.root.as_mapping().unwrap().len(), 40);
}

#[test]
fn limits_hold() {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    assert!(parse(deep(200).as_bytes())[0].is_ok());
    assert!(parse(deep(100_000).as_bytes())[0].is_err());
    let blocks: String = (0..400).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(error(&blocks).message.contains("levels deep"));
    let object = format!("{{\"a\": {}", "[".repeat(100_000));
    assert!(error(&object).message.contains("levels deep"));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let j = i - 1;
        bomb += &format!("a{i}: &a{i} [*a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}, *a{j}]\n");
    }
    assert!(error(&bomb).message.contains("values in one document"));
    let ladder: String = (1..400).fold("- &a0 [x]\n".to_owned(), |s, i| {
        s + &format!("- &a{i} [*a{}]\n", i - 1)
    });
    assert!(error(&ladder).message.contains("levels deep"));
    let long = format!("a: &a {}\n{}", "x".repeat(1 << 20), "b: *a\n".repeat(100));
    assert!(error(&long).message.contains("too much text"));
    assert!(error("a: &a [*a]\n").message.contains("alias"));
    assert!(error(&" ".repeat(MAX_BYTES + 1)).message.contains("bytes"));
    let many = "- 1\n".repeat(MAX_NODES + 1);
    assert!(error(&many).message.contains("values in one document"));
}

#[test]
fn the_deepest_document_fits_a_small_stack() {
    let work = || {
        let lists = format!("{{\"a\": {}1{}}}", "[".repeat(254), "]".repeat(254));
        let maps: String = (0..255).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        for text in [lists, maps] {
            let document = one(&text).clone();
            let _ = document.root.to_json();
            let _ = document.root.decode::<serde_json::Value>().unwrap();
        }
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn other_encodings_are_told() {
    let error = parse(b"a: b\nc: \xff\n").pop().unwrap().unwrap_err();
    assert_eq!(error.at.to_string(), "2:4");
    assert!(error.message.contains("UTF-8"));
    let error = parse(b"a: \x00\n").pop().unwrap().unwrap_err();
    assert_eq!(error.at.to_string(), "1:4");
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Sample {
    name: String,
    count: Option<i32>,
    ratio: f64,
    enabled: bool,
    items: Vec<Inner>,
    labels: BTreeMap<String, String>,
    mode: Option<Mode>,
    size: Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Inner {
    port: u16,
}

#[derive(Debug, Deserialize, PartialEq)]
enum Mode {
    Fast,
    Slow,
}

#[test]
fn types_are_filled() {
    let text = "name: x\ncount: 3\nratio: 2\nenabled: true\nitems: [{port: 80}, null]\nlabels: {a: b, c: ~}\nmode: Fast\nsize: 0.5\n";
    let decoded = one(text).root.decode::<Sample>().unwrap();
    let sample = decoded.value;
    assert_eq!(
        (
            sample.name.as_str(),
            sample.count,
            sample.ratio,
            sample.enabled
        ),
        ("x", Some(3), 2.0, true)
    );
    assert_eq!(sample.items, [Inner { port: 80 }, Inner::default()]);
    assert_eq!(sample.labels["c"], "");
    assert_eq!(sample.mode, Some(Mode::Fast));
    assert_eq!(sample.size.unwrap().0, "0.5");
    assert_eq!(decoded.unknown, []);
    let nulls = "name:\ncount:\nratio:\nenabled:\nitems:\nlabels:\nmode:\nsize:\n";
    let decoded = one(nulls).root.decode::<Sample>().unwrap();
    assert_eq!(decoded.value, Sample::default());
}

#[test]
fn unknown_fields_are_told_with_the_nearest_name() {
    let text = "nane: x\nitems:\n- prot: 1\n  deep: {er: 1}\nlabels: {free: x}\nCount: 1\n";
    let unknown = one(text).root.decode::<Sample>().unwrap().unknown;
    let told: Vec<_> = unknown.iter().map(|u| format!("{} {u}", u.at)).collect();
    assert_eq!(
        told,
        [
            "1:1 nane: unknown field, did you mean \"name\"?",
            "3:3 items[0].prot: unknown field, did you mean \"port\"?",
            "4:3 items[0].deep: unknown field",
            "6:1 Count: unknown field, did you mean \"count\"?",
        ]
    );
}

#[test]
fn values_that_do_not_fit_are_told() {
    for (text, want) in [
        (
            "name: 80\n",
            "1:7 name: must be text, but 80 is a number; put it in quotes",
        ),
        (
            "labels: {a/b: yes}\n",
            "1:15 labels[a/b]: must be text, but true is a boolean; put it in quotes",
        ),
        (
            "count: '3'\n",
            "1:8 count: must be a whole number, but \"3\" is text",
        ),
        (
            "count: 3.5\n",
            "1:8 count: must be a whole number, but is 3.5",
        ),
        (
            "enabled: 1\n",
            "1:10 enabled: must be true or false, but is a number",
        ),
        ("items: {}\n", "1:8 items: must be a list, but is a mapping"),
        (
            "items: [[]]\n",
            "1:9 items[0]: must be a mapping, but is a list",
        ),
        ("mode: fast\n", "1:7 mode: \"fast\" is none of Fast, Slow"),
        ("size: []\n", "1:7 size: must be a quantity, but is a list"),
        ("- a\n", "1:1 must be a mapping, but is a list"),
    ] {
        let error = one(text).root.decode::<Sample>().unwrap_err();
        assert_eq!(format!("{} {error}", error.at), want);
    }
    let error = one("items: [{port: 99999}]")
        .root
        .decode::<Sample>()
        .unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.at.column),
        ("items[0].port", 16)
    );
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
        "[-+0-9.eExXoOyYnN_~:]{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..5)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in "[-:{}\\[\\]&*!|>'\"%@`,?# \t\r\na-c0-9<~.]{0,80}") {
        for document in parse(text.as_bytes()).into_iter().flatten() {
            let _ = document.root.to_json();
            let _ = document.root.decode::<Sample>();
        }
    }

    #[test]
    fn json_survives(value in any_json()) {
        let text = serde_json::json!({ "v": value }).to_string();
        prop_assert_eq!(one(&text).root.to_json().to_string(), text);
    }
}

#[test]
fn a_place_has_a_path() {
    let document = parse(b"a: 1\nb:\n  c: [x, {d.e: 2}]\n").remove(0).unwrap();
    let path = |line, column| document.root.path_at(Position { line, column });
    assert_eq!(path(1, 1).as_deref(), Some("a"));
    assert_eq!(path(1, 4).as_deref(), Some("a"));
    assert_eq!(path(3, 3).as_deref(), Some("b.c"));
    assert_eq!(path(3, 7).as_deref(), Some("b.c[0]"));
    assert_eq!(path(3, 16).as_deref(), Some("b.c[1][d.e]"));
    assert_eq!(path(9, 9), None);
}
