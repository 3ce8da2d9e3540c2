//! GGUF files: typed metadata, and tensors by the names that the original checkpoint gave them.

use super::config::MAX_SIZE;
use super::error::{Doing, Result, bad_file, unsupported};
use super::kernels;
use super::rope::Scaling;
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use std::borrow::Cow;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// An open GGUF file, mapped into memory.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    data: memmap2::Mmap,
}

impl GgufFile {
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| bad_file(path, format!("cannot open: {e}")))?;
        // SAFETY: the map is read-only. Changing the file under a running process is outside what any reader
        // of it can guard against; fetched files are put in place by rename and never rewritten.
        let data = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| bad_file(path, format!("cannot map: {e}")))?;
        let content = Content::read(&mut Cursor::new(&data[..]))
            .map_err(|e| bad_file(path, format!("not a GGUF file that can be read: {}", one_line(&e))))?;
        Ok(Self { path: path.to_path_buf(), content, data })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn missing(&self, key: &str) -> crate::exec::RunError {
        bad_file(&self.path, format!("metadata key `{key}` is missing"))
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> crate::exec::RunError {
        bad_file(&self.path, format!("metadata key `{key}` must be {expected}, not {:?}", found.value_type()))
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    pub fn str(&self, key: &str) -> Result<&str> {
        self.opt_str(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        whole(value).map(Some).ok_or_else(|| self.wrong(key, "a whole number", value))
    }

    pub fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(n) = self.opt_u64(key)? else { return Ok(None) };
        if !(1..=MAX_SIZE).contains(&n) {
            return Err(bad_file(&self.path, format!("metadata key `{key}` must be a positive size, not {n}")));
        }
        Ok(Some(n as usize))
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.opt_size(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) => Ok(Some(*v)),
            Some(Value::F64(v)) => Ok(Some(*v as f32)),
            Some(other) => Err(self.wrong(key, "a number", other)),
        }
    }

    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    pub fn array(&self, key: &str) -> Result<Option<&[Value]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong(key, "a list", other)),
        }
    }

    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(items) = self.array(key)? else { return Ok(None) };
        let texts = items.iter().map(|item| match item {
            Value::String(s) => Ok(s.as_str()),
            other => Err(self.wrong(key, "a list of strings", other)),
        });
        texts.collect::<Result<_>>().map(Some)
    }

    /// Dimensions of a tensor by its GGUF name, rows first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(name).map(|info| info.shape.dims())
    }

    /// Bytes that the tensors take as quantised weights do in memory: numbers of five and six bits a byte each, and what
    /// is multiplied in floating point four.
    pub fn quantized_bytes(&self) -> u64 {
        let bytes = |info: &TensorInfo| {
            let elements = info.shape.dims().iter().map(|d| *d as u64).product::<u64>();
            let (inputs, bytes) = match kernels::quant_type(info.ggml_dtype) {
                Some(kind) => (kind.block_inputs(), kind.packed_bytes()),
                None if info.ggml_dtype == GgmlDType::BF16 => (1, 2),
                None => (1, 4),
            };
            elements / inputs as u64 * bytes as u64
        };
        self.content.tensor_infos.values().map(bytes).sum()
    }

    /// Scaling of the rotary frequencies: a tensor of factors (Llama 3) or a metadata key.
    pub fn rope_scaling(&self, architecture: &str) -> Result<Scaling> {
        if self.shape("rope_freqs.weight").is_some() {
            let tensor = self.tensor("rope_freqs.weight", None, &Device::Cpu)?;
            let factors = tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
            return factors
                .map(Scaling::Factors)
                .doing(|| format!("reading the rope factors of {}", self.path.display()));
        }
        let factor = self.opt_f32(&format!("{architecture}.rope.scaling.factor"))?.filter(|f| *f > 0.0);
        match self.opt_str(&format!("{architecture}.rope.scaling.type"))? {
            None | Some("none") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear(factor.unwrap_or(1.0))),
            Some(other) => Err(unsupported(
                &self.path,
                format!(
                    "rope scaling `{other}` is not supported; supported are `none`, `linear` and Llama 3's factors"
                ),
            )),
        }
    }

    /// A tensor by its GGUF name. With `halves`, rows are put back from pairs into halves: GGUF files of Llama
    /// models interleave the two halves of every head's rows, the original checkpoints do not. Rows are whole
    /// numbers of quantisation blocks, so that this moves bytes and changes no value.
    pub fn tensor(&self, name: &str, halves: Option<usize>, device: &Device) -> Result<QTensor> {
        let info =
            self.content.tensor_infos.get(name).ok_or_else(|| bad_file(&self.path, format!("no tensor `{name}`")))?;
        let dims = info.shape.dims();
        let bytes = self.bytes(name)?;
        let bytes = match halves {
            Some(head_dim) => Cow::Owned(pairs_to_halves(bytes, dims[0], head_dim)),
            None => Cow::Borrowed(bytes),
        };
        let doing = || format!("loading tensor `{name}` {dims:?} of {}", self.path.display());
        let storage = QStorage::from_data(aligned(bytes), device, info.ggml_dtype).doing(doing)?;
        self.forget(name)?;
        QTensor::new(storage, dims).doing(doing)
    }

    /// Lets go of the memory behind a tensor that was copied: a loaded model is not held twice. It can be read again.
    fn forget(&self, name: &str) -> Result<()> {
        #[cfg(unix)]
        {
            let bytes = self.bytes(name)?;
            let from = bytes.as_ptr() as usize - self.data.as_ptr() as usize;
            // SAFETY: the map is of a file and never written to, so its pages are read from there again. Where the system
            // does not want to let go, nothing is lost but memory.
            let _ = unsafe { self.data.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, bytes.len()) };
        }
        Ok(())
    }

    /// Bytes of a tensor as they are in the file.
    fn bytes(&self, name: &str) -> Result<&[u8]> {
        let info = &self.content.tensor_infos[name];
        let elements = info.shape.dims().iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let size = elements.and_then(|n| (n / info.ggml_dtype.block_size()).checked_mul(info.ggml_dtype.type_size()));
        let start = self.content.tensor_data_offset.checked_add(info.offset).and_then(|o| usize::try_from(o).ok());
        let range = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
        range.and_then(|r| self.data.get(r)).ok_or_else(|| {
            let (size, file) = (size.unwrap_or(usize::MAX), self.data.len());
            bad_file(&self.path, format!("tensor `{name}` ({size} bytes) lies outside the file of {file} bytes"))
                .help("the file is cut short: fetch it again")
        })
    }
}

/// The GGUF name of a tensor of the original checkpoint: `model.layers.0.mlp.up_proj.weight` is `blk.0.ffn_up.weight`.
pub fn gguf_name(name: &str) -> Option<String> {
    const TOP: [(&str, &str); 3] = [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
    ];
    const LAYER: [(&str, &str); 11] = [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    if let Some((_, gguf)) = TOP.iter().find(|(hf, _)| *hf == name) {
        return Some(gguf.to_string());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (_, gguf) = LAYER.iter().find(|(hf, _)| *hf == module)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

/// Within each head, row `2 i + s` becomes row `s * head_dim / 2 + i`.
fn pairs_to_halves(bytes: &[u8], rows: usize, head_dim: usize) -> Vec<u8> {
    let width = bytes.len() / rows;
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..rows / head_dim {
        for row in 0..head_dim {
            let (half, i) = (row / (head_dim / 2), row % (head_dim / 2));
            let from = (head * head_dim + 2 * i + half) * width;
            out.extend_from_slice(&bytes[from..from + width]);
        }
    }
    out
}

/// The tensor library reads blocks in place and asserts their alignment; a file may place tensors anywhere.
fn aligned(bytes: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match bytes {
        Cow::Borrowed(slice) if !(slice.as_ptr() as usize).is_multiple_of(16) => Cow::Owned(slice.to_vec()),
        other => other,
    }
}

pub fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::U64(v) => Some(v),
        Value::I8(v) => v.try_into().ok(),
        Value::I16(v) => v.try_into().ok(),
        Value::I32(v) => v.try_into().ok(),
        Value::I64(v) => v.try_into().ok(),
        _ => None,
    }
}

fn one_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_checkpoint() {
        assert_eq!(gguf_name("model.layers.12.self_attn.q_proj.bias").unwrap(), "blk.12.attn_q.bias");
        assert_eq!(gguf_name("model.layers.0.input_layernorm.weight").unwrap(), "blk.0.attn_norm.weight");
        assert_eq!(gguf_name("lm_head.weight").unwrap(), "output.weight");
        assert_eq!(gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"), None);
    }

    #[test]
    fn interleaved_rows_go_back_into_halves() {
        // Two heads of four rows, one byte each; what the conversion makes of rows 0..8.
        let interleaved = [0, 2, 1, 3, 4, 6, 5, 7];
        assert_eq!(pairs_to_halves(&interleaved, 8, 4), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_file_that_is_no_gguf_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        for bytes in
            [&b""[..], b"GGUF", b"not a model at all", &[0x47, 0x47, 0x55, 0x46, 3, 0, 0, 0, 255, 255, 255, 255, 255]]
        {
            std::fs::write(&path, bytes).unwrap();
            let error = GgufFile::open(&path).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("m.gguf"), "{error}");
        }
    }
}
