//! Scrubs of the archive: that they go on where they stopped, find every fault, and what is known of
//! one keeps rows in warm.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_scrub_goes_on_where_it_stopped_and_finds_every_fault() {
    let mut world = World::new();
    world.trades(6).await;
    let cold = MemoryCold::new();
    world.run(&cold, options()).await.unwrap();
    let metrics = ArchiveMetrics::default();
    let scrubber = || Scrubber::new(Arc::new(cold.clone()), None, world.clock(), metrics.clone());
    let sound = scrubber().run(Bounds::ALL, false, &nothing()).await.unwrap();
    assert_eq!((sound.is_finished, sound.faults_found, sound.manifests), (true, 0, 2));
    assert_eq!(sound.rows, world.rows.len() as u64);
    let objects = cold.keys("ticks/");
    assert!(objects.len() >= 4, "{objects:?}");
    assert_eq!(sound.files, objects.len() as u64);
    // A byte at a time: an object a call.
    let mut calls = 0;
    loop {
        let scrub = scrubber().run(Bounds { bytes: 1, ..Bounds::ALL }, false, &nothing()).await.unwrap();
        calls += 1;
        assert!(scrub.files <= calls);
        if scrub.is_finished {
            assert_eq!((scrub.files, scrub.rows), (sound.files, sound.rows));
            break;
        }
    }
    assert_eq!(calls, objects.len() as u64);
    let spoil = |key: &String, at: usize| {
        let mut all = cold.objects.lock().unwrap();
        let mut bytes = all[key].to_vec();
        bytes[at] ^= 0x40;
        all.insert(key.clone(), bytes.into());
    };
    let footers: Vec<_> = cold.keys("manifest/").into_iter().filter(|key| key.ends_with("footer")).collect();
    spoil(&objects[0], 5);
    spoil(&objects[1], 200);
    cold.delete(&objects[2]).await.unwrap();
    cold.delete(&footers[3]).await.unwrap();
    let mut expected = BTreeSet::from([&objects[0], &objects[1], &objects[2], &footers[3]]);
    let scrub = scrubber().run(Bounds::ALL, false, &nothing()).await.unwrap();
    assert_eq!((scrub.is_finished, scrub.faults_found), (true, 4), "{:?}", scrub.faults);
    for fault in &scrub.faults {
        assert!(expected.remove(&fault.key), "{fault:?}");
    }
    assert_eq!(metrics.faults.get(), 4);
    // And nothing is dropped of which an object is missing or is known to be damaged.
    let summary = world.run(&cold, dropping()).await.unwrap();
    assert_eq!((summary.failures.len(), summary.drops), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_fault_stands_until_its_object_was_read_again_and_is_sound() {
    let mut world = World::new();
    world.trades(6).await;
    let cold = MemoryCold::new();
    world.run(&cold, options()).await.unwrap();
    let scrubber = || Scrubber::new(Arc::new(cold.clone()), None, world.clock(), ArchiveMetrics::default());
    let a_byte = Bounds { bytes: 1, ..Bounds::ALL };
    // The last object of the last day, which a scrub comes to last; and a footer before it.
    let object = cold.keys("ticks/").pop().unwrap();
    let footer = cold.keys("manifest/").into_iter().rfind(|key| key.ends_with("footer")).unwrap();
    let sound = [&object, &footer].map(|key| (key, cold.objects.lock().unwrap()[key].clone()));
    cold.put(&object, "not a file".into()).await.unwrap();
    let drops = async || {
        let summary = world.run(&cold, dropping()).await.unwrap();
        (summary.drops, summary.failures.len())
    };
    let found = scrubber().run(Bounds::ALL, false, &nothing()).await.unwrap();
    assert_eq!((found.is_finished, found.faults_found), (true, 1));
    for anew in [false, true] {
        // The next scrub has only begun, twice.
        let begun = scrubber().run(a_byte, anew, &nothing()).await.unwrap();
        assert_eq!((begun.is_finished, begun.faults_found), (false, 0));
        assert_eq!(begun.known, found.faults);
        let (dropped, failed) = drops().await;
        assert_eq!((dropped, failed), (u64::from(!anew), 1), "the other day is dropped, this one never");
    }
    // It finds the same once it comes there, and once only.
    let again = scrubber().run(Bounds::ALL, false, &nothing()).await.unwrap();
    assert_eq!((again.faults_found, &again.faults, again.known.len()), (1, &found.faults, 0));
    // Put back, it counts as damaged until it was read; so does a footer that is damaged meanwhile.
    cold.put(sound[0].0, sound[0].1.clone()).await.unwrap();
    scrubber().run(a_byte, false, &nothing()).await.unwrap();
    assert_eq!(drops().await, (0, 1));
    cold.put(&footer, "not a footer".into()).await.unwrap();
    let scrub = scrubber().run(Bounds::ALL, false, &nothing()).await.unwrap();
    assert_eq!(scrub.faults.iter().map(|fault| &fault.key).collect::<Vec<_>>(), [&footer]);
    cold.put(sound[1].0, sound[1].1.clone()).await.unwrap();
    assert_eq!(drops().await, (0, 1));
    let scrub = scrubber().run(Bounds::ALL, false, &nothing()).await.unwrap();
    assert_eq!((scrub.is_finished, scrub.faults_found, scrub.known.len()), (true, 0, 0));
    assert_eq!(drops().await, (1, 0));
    world.check(&cold).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dropped_while_a_scrub_knows_of_more_faults_than_it_names() {
    let mut world = World::new();
    world.trades(2).await;
    let cold = MemoryCold::new();
    world.run(&cold, options()).await.unwrap();
    let store = Store::new(Arc::new(cold.clone()), None, ArchiveMetrics::default());
    let fault = |number| verify::Fault { key: format!("ticks/{number}"), reason: "it is missing".to_owned() };
    let faults = (0..1_000).map(fault).collect();
    let scrub =
        verify::Scrub { version: 1, is_finished: true, faults_found: 1_001, faults, ..Default::default() };
    store.put_json(verify::SCRUB_KEY, &scrub).await.unwrap();
    let scrubber = Scrubber::new(Arc::new(cold.clone()), None, world.clock(), ArchiveMetrics::default());
    for is_finished in [false, true] {
        let summary = world.run(&cold, dropping()).await.unwrap();
        assert_eq!((summary.drops, summary.failures.len()), (0, 2), "{is_finished}");
        let bounds = if is_finished { Bounds::ALL } else { Bounds { bytes: 1, ..Bounds::ALL } };
        let scrub = scrubber.run(bounds, false, &nothing()).await.unwrap();
        assert_eq!(scrub.is_finished, is_finished);
        assert_eq!((scrub.known.len(), scrub.known_more), if is_finished { (0, 0) } else { (1_000, 1) });
    }
    // No manifest names any of them.
    assert_eq!(world.run(&cold, dropping()).await.unwrap().drops, 2);
}
