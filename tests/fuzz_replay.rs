//! Replays the fuzzing corpus through the same bodies on stable: what was found once stays fixed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

#[path = "../fuzz/src/bodies.rs"]
mod bodies;

use std::path::Path;

#[test]
fn the_corpus_finds_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, body) in bodies::ALL {
        let mut files = 0;
        for file in std::fs::read_dir(folder.join(name)).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            let bytes = std::fs::read(&path).unwrap();
            body(&bytes);
            // Also what is left when it is cut anywhere, which is how input arrives.
            for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
                body(&bytes[..end]);
            }
            files += 1;
        }
        assert!(files > 0, "fuzz/corpus/{name} is empty");
    }
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |part: &str| {
        let entries = std::fs::read_dir(folder.join(part)).unwrap();
        let stem = |e: std::io::Result<std::fs::DirEntry>| {
            e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(stem).collect();
        names.sort();
        names
    };
    let mut all: Vec<String> = bodies::ALL.iter().map(|(name, _)| (*name).to_string()).collect();
    all.sort();
    assert_eq!(names("targets"), all);
    assert_eq!(names("corpus"), all);
}
