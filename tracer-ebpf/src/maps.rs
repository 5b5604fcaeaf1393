//! The maps, under the names that `tracer_common::maps` documents. Sizes are defaults; user space
//! may override them before loading.

use aya_ebpf::{
    macros::map,
    maps::{Array, CgroupArray, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_common::{
    limits::{PROBES_MAX, TARGET_DIRS_MAX},
    maps::{Awaited, AwaitedKey, Call, Config, Counters, PeerKey, Socket},
};

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);
#[map]
pub static LIFECYCLE: RingBuf = RingBuf::with_byte_size(256 << 10, 0);
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(PROBES_MAX, 0);
#[map]
pub static TARGETS: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);
#[map]
pub static TARGET_DIRS: CgroupArray = CgroupArray::with_max_entries(TARGET_DIRS_MAX, 0);
#[map]
pub static CGROUPS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(8192, 0);
/// From an address with this value in `TARGET_ADDRESSES` a target asks; user space seeds with the same.
pub const OF_TARGET: u32 = 1;
/// From such a one a traced resolver asks: for a target if a target asked the same question.
pub const OF_RESOLVER: u32 = 2;
#[map]
pub static TARGET_ADDRESSES: LruHashMap<PeerKey, u32> = LruHashMap::with_max_entries(8192, 0);
#[map]
pub static SOCKETS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(32768, 0);
#[map]
pub static FDS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(32768, 0);
#[map]
pub static CALLS: HashMap<u64, Call> = HashMap::with_max_entries(16384, 0);
#[map]
pub static AWAITED: LruHashMap<AwaitedKey, Awaited> = LruHashMap::with_max_entries(32768, 0);
#[map]
pub static QUESTIONS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);
