fn main(){ println!("cargo::rustc-check-cfg=cfg(no_probes)"); }
