//! Writes seeds and words where libFuzzer looks for them: `fuzz/corpus/TARGET` and
//! `fuzz/dictionaries/TARGET.dict`.

use std::fs;
use std::io;
use std::path::Path;

use whodunit_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    fs::create_dir_all(fuzz.join("dictionaries"))?;
    for target in TARGETS {
        let corpus = fuzz.join("corpus").join(target.name);
        fs::create_dir_all(&corpus)?;
        for (index, seed) in target.seeds.iter().enumerate() {
            fs::write(corpus.join(format!("seed-{index}")), seed)?;
        }
        let entry = |word: &&[u8]| {
            let bytes = word.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("\"{}\"\n", bytes.collect::<String>())
        };
        let dictionary: String = target.words.iter().map(entry).collect();
        let file = fuzz.join(format!("dictionaries/{}.dict", target.name));
        fs::write(file, dictionary)?;
    }
    Ok(())
}
