// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Pictures of made-up results.

use super::*;

fn made_up() -> Results {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/made-up.json");
    Results::read(Path::new(place)).unwrap()
}

#[test]
fn results_become_pictures_that_name_all_contenders() {
    let drawn = draw(&made_up()).unwrap();
    let names: Vec<&str> = drawn.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["latency", "throughput", "slowdown", "server"]);
    for (name, svg) in drawn {
        assert!(svg.starts_with("<!-- SPDX-License-Identifier"), "{name}");
        assert!(svg.contains("better"), "{name} says what is better");
        let whos: &[&str] = match name {
            "server" => &["memsrvd", "nbdkit", "echo"],
            _ => &["memsrv", "nbd", "another"],
        };
        for words in whos.iter().chain(&["commit 0123456", "load before"]) {
            assert!(svg.contains(words), "{words} in {name}");
        }
    }
}

#[test]
fn a_part_that_was_not_run_has_no_picture() {
    let directory = tempfile::tempdir().unwrap();
    let results = Results {
        server: made_up().server,
        ..Results::default()
    };
    let written = write(&results, directory.path()).unwrap();
    let names = written.iter().map(|place| place.file_name().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["server.svg", "server.png"]);
    assert!(fs::read(&written[1]).unwrap().starts_with(b"\x89PNG"));
    let none = Results::default();
    assert!(write(&none, directory.path()).unwrap().is_empty());
}

#[test]
fn a_part_of_which_nothing_can_be_drawn_is_no_error() {
    let mut results = Results {
        server: None,
        ..made_up()
    };
    results.page.as_mut().unwrap().samples.clear();
    results.apps.as_mut().unwrap().samples.clear();
    assert!(draw(&results).unwrap().is_empty());
}
