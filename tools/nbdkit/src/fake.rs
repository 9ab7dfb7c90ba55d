use std::os::unix::fs::FileExt;
use seawall_snapshot::Durability;
use crate::error::Error;
#[derive(Debug)]
pub struct F(pub std::fs::File, pub u64, pub u64);
impl crate::engine::Engine for F {
 fn size(&self)->u64{self.1}
 fn block_bytes(&self)->u64{self.2}
 fn check_writable(&self)->Result<(),Error>{Ok(())}
 fn read(&self,o:u64,b:&mut [u8])->Result<(),Error>{self.0.read_exact_at(b,o).unwrap();Ok(())}
 fn write(&self,o:u64,b:&[u8],_d:Durability)->Result<(),Error>{self.0.write_all_at(b,o).map_err(|e|Error::from(seawall_wal::Error::io(seawall_wal::IoOp::Write,std::path::Path::new("f"),None,e)))}
 fn write_zeroes(&self,o:u64,l:u64,_n:bool,_d:Durability)->Result<(),Error>{let mut o=o;let e=o+l;while o<e{let n=(4096-o%4096).min(e-o);if n==4096{let m=(e-o)/4096*4096;rustix::fs::fallocate(&self.0,rustix::fs::FallocateFlags::PUNCH_HOLE|rustix::fs::FallocateFlags::KEEP_SIZE,o,m).unwrap();o+=m;}else{self.0.write_all_at(&vec![0;n as usize],o).unwrap();o+=n;}}Ok(())}
 fn trim(&self,o:u64,l:u64,d:Durability)->Result<(),Error>{let a=o.next_multiple_of(4096);let b=(o+l)/4096*4096;if a<b{self.write_zeroes(a,b-a,false,d)?}Ok(())}
 fn flush(&self)->Result<(),Error>{Ok(())}
 fn next_data(&self,o:u64)->Result<Option<(u64,u64)>,Error>{match rustix::fs::seek(&self.0,rustix::fs::SeekFrom::Data(o)){Ok(a)=>{let b=rustix::fs::seek(&self.0,rustix::fs::SeekFrom::Hole(a)).unwrap();Ok(Some((a,b)))}Err(_)=>Ok(None)}}
 fn close(self:Box<Self>)->Result<(),Error>{Ok(())}
}
