//! The JSON Schema of the contract, made from the types themselves.

use schemars::generate::SchemaSettings;

use crate::report::Output;

/// JSON Schema (draft 2020-12) of one line of `-o json`.
pub fn schema() -> schemars::Schema {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Output>();
    schema.insert("title".into(), "svctrace output".into());
    schema.insert(
        "description".into(),
        "One line of `svctrace -o json`. Fields and enum values may be added within schema 1, never \
         renamed or re-typed. Unknown is null; durations are integers in nanoseconds."
            .into(),
    );
    schema
}
