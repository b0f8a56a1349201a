# From `cargo metadata` to CycloneDX. $checksums: SHA-256 of crates, by name@version; $libc, $rust: versions, or empty.

# Ids of packages that end up in the binary: reached from the kubelet over normal dependencies.
def linked($nodes; $root):
  {seen: {($root): true}, todo: [$root]}
  | until(.todo == [];
      .todo[0] as $id
      | ([$nodes[$id].deps[] | select(any(.dep_kinds[]; .kind == null)).pkg]) as $next
      | .todo = .todo[1:]
      | reduce $next[] as $n (.; if .seen[$n] then . else .seen[$n] = true | .todo += [$n] end))
  | .seen | keys;

def reference: "pkg:cargo/\(.name)@\(.version)";

def component:
  {type: "library", "bom-ref": reference, name, version, purl: reference}
  + (if .license then {licenses: [{expression: (.license | gsub("/"; " OR "))}]} else {} end)
  + ($checksums["\(.name)@\(.version)"] as $sum | if $sum then {hashes: [{alg: "SHA-256", content: $sum}]} else {} end);

# Procedural macros run in the compiler; they and what only they need are not in the binary.
def is_macro: any(.targets[]; .kind | index("proc-macro"));

(.packages | map({key: .id, value: .}) | from_entries) as $packages
| (.resolve.nodes | map({key: .id, value: (.deps |= map(select($packages[.pkg] | is_macro | not)))}) | from_entries) as $nodes
| (.packages[] | select(.name == "kubelet" and .source == null)) as $agent
| linked($nodes; $agent.id) as $ids
| [ {name: "glibc", version: $libc, license: "LGPL-2.1-or-later", purl: "pkg:deb/debian/libc6-dev@\($libc)"},
    {name: "rust-std", version: $rust, license: "MIT OR Apache-2.0", purl: "pkg:generic/rust-std@\($rust)"} ] as $static
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
      component: ($agent | component | .type = "application"),
      tools: {components: [{type: "application", name: "systemd/package/sbom"}]}
    },
    components: (
      [$ids[] | select(. != $agent.id) | $packages[.] | component]
      + [$static[] | select(.version != "")
          | {type: "library", "bom-ref": .purl, name, version, purl, licenses: [{expression: .license}]}]
      | sort_by(.name, .version)),
    dependencies: (
      [$ids[] | . as $id | $packages[$id] | {
        ref: reference,
        dependsOn: ([$nodes[$id].deps[] | select(any(.dep_kinds[]; .kind == null)) | $packages[.pkg] | reference]
          + (if $id == $agent.id then [$static[] | select(.version != "") | .purl] else [] end) | unique)
      }] | sort_by(.ref))
  }
