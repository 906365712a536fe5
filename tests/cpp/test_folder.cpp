// Model folders without compressed layers, what config files say, and work on the library's threads, by the C
// interface.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "sparlow/sparlow.h"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("folder");

namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    fs::path pattern = fs::temp_directory_path() / "sparlow-folder-XXXXXX";
    std::string name = pattern.string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { fs::remove_all(path); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
  }
  // One tensor of four bytes.
  void write_shard(const std::string& name, const std::string& tensor) const {
    const std::string header = "{\"" + tensor + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    std::string size(8, '\0');
    size[0] = static_cast<char>(header.size());
    write(name, size + header + "abcd");
  }
  fs::path path;
};

struct Opened {
  explicit Opened(const Folder& folder) : status(sparlow_checkpoint_open_model(folder.path.c_str(), &handle)) {}
  ~Opened() { sparlow_checkpoint_close(handle); }
  sparlow_checkpoint* handle = nullptr;
  sparlow_status status;
};

sparlow_value value(const Opened& opened, const char* pointer, const char* file = "config.json") {
  sparlow_value out{};
  out.size = sizeof out;
  CAPTURE(pointer);
  REQUIRE(sparlow_checkpoint_value(opened.handle, file, pointer, &out) == SPARLOW_OK);
  return out;
}

void check_refused(const Folder& folder, const char* words) {
  const Opened opened(folder);
  CHECK(opened.status != SPARLOW_OK);
  CHECK(opened.handle == nullptr);
  CHECK(std::string(sparlow_last_error()).find(words) != std::string::npos);
}

}  // namespace

TEST_CASE("a plain folder: one file, or shards by their index") {
  const Folder folder;
  check_refused(folder, "config.json cannot be read");
  folder.write("config.json", "{}");
  check_refused(folder, "model.safetensors cannot be read");
  folder.write_shard("model.safetensors", "a");
  CHECK(sparlow_checkpoint_tensors(Opened(folder).handle) == 1);
  folder.write_shard("two.safetensors", "b");
  folder.write("model.safetensors.index.json", R"({"weight_map":{"a":"model.safetensors","b":"two.safetensors"}})");
  const Opened opened(folder);
  CHECK(opened.status == SPARLOW_OK);
  CHECK(sparlow_checkpoint_tensors(opened.handle) == 2);
  CHECK(sparlow_checkpoint_layers(opened.handle) == 0);
}

TEST_CASE("a plain folder whose files disagree is refused") {
  const Folder folder;
  folder.write("config.json", "{}");
  folder.write_shard("model.safetensors", "a");
  folder.write("model.safetensors.index.json", R"({"weight_map":{"a":"model.safetensors","b":"model.safetensors"}})");
  check_refused(folder, "tensor 'b' of model.safetensors.index.json is in no shard");
  folder.write_shard("two.safetensors", "a");
  folder.write("model.safetensors.index.json", R"({"weight_map":{"a":"model.safetensors","b":"two.safetensors"}})");
  check_refused(folder, "tensor 'a' is in two shards");
  folder.write("model.safetensors.index.json", R"({"weight_map":{"a":"../model.safetensors"}})");
  check_refused(folder, "tensor 'a' has no file name");
  folder.write("model.safetensors.index.json", "{}");
  check_refused(folder, "has no weight_map");
  folder.write("config.json", R"({"quantization_config":{"quant_method":"other"}})");
  check_refused(folder, "a quantization_config that is not sparlow's");
  folder.write("config.json", R"({"quantization_config":{"quant_method":"sparlow"}})");
  check_refused(folder, "not a finished sparlow checkpoint");
  folder.write("config.json", "[]");
  check_refused(folder, "must hold a JSON object");
}

TEST_CASE("values of the config files by JSON pointer") {
  const Folder folder;
  folder.write("config.json", R"({"a":{"b~/c":[7,-1.5,"text",true,null]},"":3})");
  folder.write_shard("model.safetensors", "a");
  CHECK(value(Opened(folder), "", "generation_config.json").kind == SPARLOW_ABSENT);
  folder.write("generation_config.json", R"({"eos_token_id":[2,9223372036854775807]})");
  const Opened opened(folder);
  CHECK(value(opened, "").items == 2);
  CHECK(value(opened, "/").whole == 3);
  CHECK(value(opened, "/a").kind == SPARLOW_OBJECT);
  CHECK(value(opened, "/a/b~0~1c").items == 5);
  CHECK(value(opened, "/a/b~0~1c/0").whole == 7);
  CHECK(value(opened, "/a/b~0~1c/1").number == -1.5);
  CHECK(value(opened, "/a/b~0~1c/1").whole == -1);
  CHECK(std::string(value(opened, "/a/b~0~1c/2").text) == "text");
  CHECK(value(opened, "/a/b~0~1c/3").boolean == 1);
  CHECK(value(opened, "/a/b~0~1c/4").kind == SPARLOW_NULL);
  for (const char* nowhere : {"/x", "/a/b~0~1c/5", "/a/b~0~1c/00", "/a/b~0~1c/-", "/a/b~0~1c/0/x", "/x/y/z"})
    CHECK(value(opened, nowhere).kind == SPARLOW_ABSENT);
  CHECK(value(opened, "/eos_token_id/1", "generation_config.json").whole == 9223372036854775807);
  sparlow_value out{};
  out.size = sizeof out;
  CHECK(sparlow_checkpoint_value(opened.handle, "config.json", "a", &out) == SPARLOW_INVALID_ARGUMENT);
  CHECK(sparlow_checkpoint_value(opened.handle, "config.json", "/~2", &out) == SPARLOW_INVALID_ARGUMENT);
  CHECK(sparlow_checkpoint_value(opened.handle, "tokenizer.json", "", &out) == SPARLOW_INVALID_ARGUMENT);
  out.size = 0;
  CHECK(sparlow_checkpoint_value(opened.handle, "config.json", "", &out) == SPARLOW_INVALID_ARGUMENT);
}

TEST_CASE("parallel_for calls every index once") {
  constexpr std::int64_t kCount = 1003;
  std::vector<std::atomic<int>> seen(kCount);
  const sparlow_body body = [](void* user, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) ++(*static_cast<std::vector<std::atomic<int>>*>(user))[i];
  };
  CHECK(sparlow_parallel_for(kCount, 10, body, &seen) == SPARLOW_OK);
  CHECK(sparlow_parallel_for(0, 10, body, &seen) == SPARLOW_OK);
  for (const auto& times : seen) CHECK(times == 1);
  CHECK(sparlow_parallel_for(1, 0, body, &seen) == SPARLOW_INVALID_ARGUMENT);
  CHECK(sparlow_parallel_for(-1, 1, body, &seen) == SPARLOW_INVALID_ARGUMENT);
  CHECK(sparlow_parallel_for(1, 1, nullptr, &seen) == SPARLOW_INVALID_ARGUMENT);
  const std::int32_t before = sparlow_threads();
  CHECK(sparlow_set_threads(3) == SPARLOW_OK);
  CHECK(sparlow_threads() == 3);
  CHECK(sparlow_set_threads(0) == SPARLOW_INVALID_ARGUMENT);
  CHECK(sparlow_set_threads(before) == SPARLOW_OK);
}

TEST_SUITE_END();
}  // namespace sparlow::test
