//! Which licences the project may be built with. Compiled into tests of more than one workspace.

use std::process::Command;

/// Permissive licences, and MPL-2.0.
const ALLOWED: [&str; 17] = [
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    // Of data, the list of certificate authorities: only that its text goes with them is asked for.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    // The wrapper of FFmpeg: do what you want. FFmpeg itself is LGPL and linked dynamically.
    "WTFPL",
    "Zlib",
];

/// Fails if a dependency of the workspace in a folder has another licence.
pub(crate) fn check(root: &str, least: usize) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > least);
    let mut problems = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        // Before SPDX expressions a slash stood for OR.
        let licence = package["license"].as_str().unwrap_or_default().replace('/', " OR ");
        let allowed = spdx::Expression::parse(&licence).is_ok_and(|e| {
            // An exception (as LLVM's) only ever permits more.
            e.evaluate(|requirement| requirement.license.id().is_some_and(|id| ALLOWED.contains(&id.name)))
        });
        if !allowed {
            problems.push(format!("{name}: {licence:?}"));
        }
    }
    assert!(problems.is_empty(), "licences that are not allowed: {problems:#?}");
}
