#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(target) = whodunit_fuzz::target("filter") {
        (target.run)(bytes);
    }
});
