//! Hand-written histories, and what may be left of them.

use std::collections::BTreeSet;

use super::*;

fn wrote(file: usize, offset: u64, content: &[u8]) -> Event {
    Event::Wrote { file, offset, content: content.into() }
}

fn synced(file: usize) -> Event {
    Event::Synced { file, and_directory: false }
}

fn created(name: &str) -> Event {
    Event::Created { name: name.to_owned() }
}

fn deleted(name: &str, durably: bool) -> Event {
    Event::Deleted { name: name.to_owned(), durably }
}

/// With one durable file `a`.
fn disk<'h>(content: &[u8], events: &'h [Event]) -> Disk<'h> {
    let mut disk = Disk::new(&[("a".to_owned(), content.to_owned())], |_| true);
    events.iter().for_each(|event| disk.take_in(event));
    disk
}

/// All images that arise.
fn images(disk: &Disk<'_>, loss: Loss) -> BTreeSet<Image> {
    let mut random = StdRng::seed_from_u64(1);
    (0..1_000).map(|_| disk.image(loss, &mut random)).collect()
}

/// What file `a` may hold.
fn contents(disk: &Disk<'_>, loss: Loss) -> Vec<String> {
    let images = images(disk, loss).into_iter();
    let contents: BTreeSet<String> =
        images.map(|image| String::from_utf8(image["a"].clone()).unwrap()).collect();
    contents.into_iter().collect()
}

/// Of which files there are any, as names.
fn names(disk: &Disk<'_>, loss: Loss) -> BTreeSet<String> {
    let join = |image: Image| image.into_keys().collect::<Vec<_>>().join(" ");
    images(disk, loss).into_iter().map(join).collect()
}

const EACH: [Loss; 5] = [Loss::All, Loss::None, Loss::Tail, Loss::Some(0.5), Loss::Torn(0.5)];

#[test]
fn what_was_synced_is_in_every_image() {
    let events = [wrote(0, 0, b"xy"), Event::Truncated { file: 0, bytes: 3 }, synced(0)];
    for loss in EACH {
        assert_eq!(contents(&disk(b"----", &events), loss), ["xy-"], "{loss:?}");
    }
}

#[test]
fn what_was_not_synced_is_lost_in_any_combination() {
    let events = [synced(0), wrote(0, 0, b"x"), wrote(0, 1, b"y"), wrote(0, 1, b"z")];
    let disk = disk(b"---", &events);
    assert_eq!(contents(&disk, Loss::All), ["---"]);
    assert_eq!(contents(&disk, Loss::None), ["xz-"]);
    assert_eq!(contents(&disk, Loss::Tail), ["---", "x--", "xy-", "xz-"], "in order");
    let any = ["---", "-y-", "-z-", "x--", "xy-", "xz-"];
    assert_eq!(contents(&disk, Loss::Some(0.5)), any);
    assert_eq!(contents(&disk, Loss::Torn(0.5)), any);
}

#[test]
fn a_sync_of_another_file_says_nothing() {
    let events = [wrote(0, 0, b"x"), created("b"), wrote(1, 0, b"y"), synced(1)];
    assert_eq!(contents(&disk(b"-", &events), Loss::Some(0.5)), ["-", "x"]);
}

#[test]
fn a_write_is_torn_at_sectors_and_harms_nothing_beside_it() {
    let events = [wrote(0, 510, b"abcd")];
    let disk = disk(&[b'-'; 600], &events);
    let around = |written: &str| format!("{}{written}{}", "-".repeat(510), "-".repeat(86));
    let torn = ["----", "--cd", "ab--", "abcd"].map(around);
    assert_eq!(contents(&disk, Loss::Torn(0.5)), torn);
    assert_eq!(contents(&disk, Loss::Tail), torn);
    assert_eq!(contents(&disk, Loss::Some(0.5)), [around("----"), around("abcd")], "whole");
}

#[test]
fn a_cut_that_was_not_synced_may_be_lost() {
    let events = [Event::Truncated { file: 0, bytes: 1 }, wrote(0, 0, b"x")];
    let left = ["-", "---", "x", "x--"];
    assert_eq!(contents(&disk(b"---", &events), Loss::Some(0.5)), left);
    assert_eq!(contents(&disk(b"---", &events), Loss::Tail), ["-", "---", "x"]);
}

#[test]
fn a_file_may_be_longer_than_what_was_written_of_it() {
    let events = [wrote(0, 1, b"xy")];
    let left = images(&disk(b"-", &events), Loss::Some(0.5));
    let left: BTreeSet<&[u8]> = left.iter().map(|image| &image["a"][..]).collect();
    let noise = [&b"-"[..], &NOISE[..2]].concat();
    let wanted: BTreeSet<&[u8]> = [&b"-"[..], b"-xy", b"-\0\0", &noise].into();
    assert_eq!(left, wanted);
}

#[test]
fn a_new_file_is_there_for_certain_once_its_directory_is_synced() {
    let mut events = vec![created("b"), wrote(1, 0, b"x"), synced(1)];
    let may_be_missing = ["a", "a b"].map(String::from).into();
    assert_eq!(names(&disk(b"", &events), Loss::Some(0.5)), may_be_missing);
    assert_eq!(names(&disk(b"", &events), Loss::All), ["a".to_owned()].into());
    events[2] = Event::Synced { file: 1, and_directory: true };
    for loss in EACH {
        assert_eq!(names(&disk(b"", &events), loss), ["a b".to_owned()].into(), "{loss:?}");
    }
}

#[test]
fn a_deleted_file_may_be_back_until_the_directory_is_synced() {
    let events = [deleted("a", false), created("a"), wrote(1, 0, b"new")];
    let left: BTreeSet<Option<String>> = images(&disk(b"old", &events), Loss::Some(1.0))
        .into_iter()
        .map(|image| image.get("a").map(|left| String::from_utf8(left.clone()).unwrap()))
        .collect();
    assert_eq!(left, [None, Some("new".to_owned()), Some("old".to_owned())].into());
    let events = [deleted("a", true)];
    EACH.iter()
        .for_each(|loss| assert!(images(&disk(b"old", &events), *loss) == [Image::new()].into()));
}

#[test]
fn a_sync_that_is_not_honest_does_nothing() {
    let events = [wrote(0, 0, b"x"), synced(0)];
    let mut disk = Disk::new(&[("a".to_owned(), b"-".to_vec())], |name| name != "a");
    events.iter().for_each(|event| disk.take_in(event));
    assert_eq!(contents(&disk, Loss::Some(0.5)), ["-", "x"]);
}

#[test]
fn an_image_replaces_what_lies_in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["t.db", "t.db-journal", "t.db-shm", "t.db.lock"] {
        fs::write(directory.path().join(name), "old").unwrap();
    }
    write(&[("t.db".to_owned(), b"new".to_vec())].into(), directory.path());
    let names = fs::read_dir(directory.path()).unwrap();
    let names: BTreeSet<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["t.db", "t.db.lock"].map(Into::into).into());
    assert_eq!(fs::read(directory.path().join("t.db")).unwrap(), b"new");
}
