//! Takes the debug information out of a compiled eBPF object: five sixths of it, which no loader reads.
//! The type information (BTF) that was made of it stays.

use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// The object without its debug information and what refers to it.
pub(crate) fn without_debug_info(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete =
            [&b".debug_"[..], b".rel.debug_"].iter().any(|start| name.starts_with(start));
    }
    // LLVM keeps the names of sections among those of symbols.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    builder.delete_orphans();
    builder.set_section_sizes();
    let mut slim = Vec::new();
    builder.write(&mut slim)?;
    Ok(slim)
}
