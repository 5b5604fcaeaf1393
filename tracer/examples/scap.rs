use std::io::Write;
use tracer::pipeline::{Options, Pipeline};
use tracer::sink::{Sink, json::Json, text::{Style, Text}};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let file = std::fs::File::open(&args[1]).unwrap();
    let mode = args.get(2).map(String::as_str).unwrap_or("text");
    let out = std::io::BufWriter::with_capacity(1<<20, std::io::stdout());
    let sinks: Vec<Box<dyn Sink>> = match mode { "text" | "events" => vec![Box::new(Text::new(out, Style{width: Some(140), ..Style::default()}))], _ => vec![Box::new(Json::new(out))] };
    let mut p = Pipeline::new(Options{events: mode.contains("events"), transactions: mode=="json", ..Options::default()}, sinks);
    let mut n=0;
    for r in tracer::source::scap::open(Box::new(file)).unwrap() {
        match r { Ok(r) => { n+=1; if mode=="count" {continue}; p.push(&r).unwrap() }, Err(e) => eprintln!("{e}") }
    }
    eprintln!("{n} records");
    p.finish().unwrap();
    std::io::stdout().flush().unwrap();
}
