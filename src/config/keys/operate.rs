//! Keys of operation: control socket, store, log.

use super::parse::{level, path};
use super::{Fallback::Is, Section, Shape, key, set};
use crate::config::Engine;

pub(super) const CONTROL: Section = Section {
    name: "control",
    doc: "",
    shape: Shape::Table,
    keys: &[key(
        "socket",
        Is("\"control.sock\""),
        "Unix socket by which `bulkhead queue` talks to the node; only its user may open it. A \
         relative path starts at `data_dir`.",
        |c, v| set(&mut c.control.socket, v.parsed("\"control.sock\"", path)),
    )],
};

pub(super) const STORE: Section = Section {
    name: "store",
    doc: "",
    shape: Shape::Table,
    keys: &[
        key(
            "engine",
            Is("\"sqlite\""),
            "\"sqlite\" keeps the queue on disk. \"memory\" loses it when the node stops: for \
             experiments alone.",
            |c, v| {
                let words = [("sqlite", Engine::Sqlite), ("memory", Engine::Memory)];
                set(&mut c.store.engine, v.word(&words))
            },
        ),
        key(
            "free_space_min",
            Is("\"256 MiB\""),
            "With less free space than this under `data_dir`, new mail is refused with 452 and \
             clients keep it; newsletters already with less than twice this.",
            |c, v| set(&mut c.store.free_space_min, v.size("0", "1 TiB")),
        ),
        key(
            "size_max",
            Is("\"0\""),
            "The most space that the queue takes under `data_dir`, about: beyond it, new mail is \
             refused with 452, newsletters already beyond nine tenths of it. \"0\": no limit but \
             the disk's.",
            |c, v| set(&mut c.store.size_max, v.size("0", "100 TiB")),
        ),
        key(
            "compression",
            Is("\"none\""),
            "\"zstd\" keeps messages compressed, where the disk is short: a newsletter takes \
             a quarter to a half of its size there, and 0.1 ms more of the processor. What is \
             there already stays as it is.",
            |c, v| set(&mut c.store.compress, v.word(&[("none", false), ("zstd", true)])),
        ),
    ],
};

pub(super) const LOG: Section = Section {
    name: "log",
    doc: "",
    shape: Shape::Table,
    keys: &[
        key(
            "format",
            Is("\"text\""),
            "On stderr: \"text\" for people, \"json\" for collectors.",
            |c, v| set(&mut c.log.json, v.word(&[("text", false), ("json", true)])),
        ),
        key(
            "level",
            Is("\"info\""),
            "\"error\", \"warn\", \"info\", \"debug\", \"trace\"; or by module, \
             \"info,bulkhead::deliver=debug\".",
            |c, v| set(&mut c.log.level, v.parsed("\"info\"", level)),
        ),
    ],
};
