// The reader against the folder of hostile files: one file per fault, and the words its error must contain.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "io/json.hpp"
#include "sparlow/checkpoint.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("safetensors");

namespace {

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<StoredTensor> read(const std::string& content) {
  const std::vector<char> exact(content.begin(), content.end());  // no slack behind it
  return read_safetensors("bad", exact.data(), exact.size());
}

std::string file_of(const std::string& header, const std::string& data) {
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> 8 * i & 255);
  return out + header + data;
}

}  // namespace

TEST_CASE("hostile files are refused with their own error") {
  std::ifstream list(std::string(SPARLOW_CORRUPT) + "/expected.tsv");
  REQUIRE(list.good());
  std::set<std::string> listed;
  for (std::string name, words; std::getline(list, name, '\t') && std::getline(list, words);) {
    CAPTURE(name);
    listed.insert(name);
    CHECK_THROWS_WITH_AS(read(content_of(std::filesystem::path(SPARLOW_CORRUPT) / name)),
                         doctest::Contains(words.c_str()), Error);
  }
  CHECK(listed.size() > 20);
  CHECK(read(content_of(std::string(SPARLOW_CORRUPT) + "/../good.safetensors")).size() == 2);
  for (const auto& entry : std::filesystem::directory_iterator(SPARLOW_CORRUPT))
    if (entry.path().extension() == ".safetensors") CHECK(listed.count(entry.path().filename().string()) == 1);
}

TEST_CASE("good files: sizes of zero, scalars, blanks, unknown fields, no tensors") {
  CHECK(read(file_of("{}  \n", "")).empty());
  const auto tensors = read(file_of(R"({"b":{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":[{"x":1e5}]},)"
                                    R"("a":{"shape":[0,4611686018427387904,8],"data_offsets":[4,4],"dtype":"U8"},)"
                                    R"("__metadata__":{"k":"\ud83d\ude00"}})",
                                    "abcd"));
  REQUIRE(tensors.size() == 2);
  CHECK(tensors[0].name == "b");
  CHECK(std::string_view(static_cast<const char*>(tensors[0].data), 4).size() == 4);
  CHECK(tensors[1].bytes == 0);
}

TEST_CASE("JSON: what is refused, and where") {
  const auto refused = [](const std::string& text, const char* words) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(io::parse_json(text), doctest::Contains(words), io::JsonError);
  };
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "01", "-", "1.", "1e", "+1", "NaN", "'a'", "[1] 2", "\"\\x\"",
                           "\"\\u12g4\"", "tru", "{\"a\" 1}", "{1:2}", "\xef\xbb\xbf{}"})
    refused(text, "byte");
  refused("\"\\ud800\"", "lone surrogate");
  refused("\"\\udc00\"", "lone surrogate");
  refused("\"\xc0\x80\"", "not UTF-8 at byte 1");
  refused("\"\xed\xa0\x80\"", "not UTF-8");
  refused("\"a\nb\"", "control character");
  refused("{\"a\":1,\"b\":{\"\\u0061\":1,\"a\":2}}", "duplicate key 'a'");
  refused(std::string(129, '[') + std::string(129, ']'), "128 levels");
  CHECK(io::parse_json(std::string(128, '[') + "1" + std::string(128, ']')).items.size() == 1);
  CHECK(io::parse_json("9223372036854775807").natural == 9223372036854775807u);
  for (const char* text : {"9223372036854775808", "-1", "-0", "1.0", "1e2"})
    CHECK(io::parse_json(text).is(io::Json::Kind::number));
  CHECK(io::parse_json(" \"\\ud83d\\ude00\\n\" ").string == "\xf0\x9f\x98\x80\n");
}

TEST_SUITE_END();
}  // namespace sparlow::test
