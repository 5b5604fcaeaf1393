//! Landlock: no file is opened, made or removed, no TCP port bound or connected, nobody outside is
//! signalled or spoken to. What is open stays usable. As much of it as the kernel has.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetError, RulesetStatus, Scope,
};

/// The newest rights that this version knows; the kernel's own are what counts.
const NEWEST: ABI = ABI::V9;

/// In words what it is good for here, or why it is not in force.
pub(super) fn restrict() -> Result<String, String> {
    let status = apply().map_err(|error| format!("Landlock ({error})"))?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("Landlock (this kernel was started without it)".to_owned())
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            let mut against = "files".to_owned();
            for (since, what) in [(ABI::V4, ", TCP"), (ABI::V6, ", signals and abstract sockets")] {
                if effective_abi as i32 >= since as i32 {
                    against += what;
                }
            }
            Ok(format!("Landlock {} ({against})", effective_abi as i32))
        }
        _ => Err("Landlock (this kernel has none)".to_owned()),
    }
}

fn apply() -> Result<RestrictionStatus, RulesetError> {
    let rules = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?;
    let rules = rules.handle_access(AccessNet::from_all(NEWEST))?;
    rules.scope(Scope::from_all(NEWEST))?.create()?.restrict_self()
}
